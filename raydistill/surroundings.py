"""What a run in somebody's notebook or program leaves as it was.

Ray, Optuna and PyTorch change things of the whole process: warnings, loggers, threads, random numbers, SIGTERM. The
command line ends with its process; a call from Python gives all of it back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator

LOGGERS = ("ray", "ray.train", "ray.tune", "ray.data", "ray._private", "optuna", "matplotlib")


@contextlib.contextmanager
def kept_surroundings() -> Iterator[None]:
    """Whatever the block changes of warnings, loggers, signals, environment, threads and random numbers is undone."""
    with contextlib.ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        undo.enter_context(_kept_environment())
        undo.enter_context(_kept_loggers())
        undo.enter_context(_kept_signals())
        undo.enter_context(_kept_numbers())
        yield


@contextlib.contextmanager
def _kept_environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@contextlib.contextmanager
def _kept_loggers() -> Iterator[None]:
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in LOGGERS)]
    before = [(logger, logger.level, logger.propagate, logger.disabled, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, propagate, disabled, handlers in before:
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
            logger.handlers[:] = handlers


@contextlib.contextmanager
def _kept_signals() -> Iterator[None]:
    """Only the main thread may choose handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: one that Python did not set, and cannot set again
                signal.signal(number, handler)


@contextlib.contextmanager
def _kept_numbers() -> Iterator[None]:
    """Threads and random numbers of PyTorch, random numbers of NumPy and Python."""
    import numpy as np
    import torch

    threads, numpy_state, python_state = torch.get_num_threads(), np.random.get_state(), random.getstate()
    try:
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
