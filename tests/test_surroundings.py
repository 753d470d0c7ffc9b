import logging
import os
import random
import signal
import threading
import warnings

import numpy as np
import pytest
import torch

from raydistill.surroundings import kept_surroundings


def change_everything():
    warnings.simplefilter("ignore")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    logging.getLogger().addHandler(logging.NullHandler())
    os.environ["RAYDISTILL_NEW"] = "1"
    os.environ["RAYDISTILL_OLD"] = "2"
    os.environ.pop("RAYDISTILL_GONE", None)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def look():
    return (
        list(warnings.filters),
        logging.getLogger("ray.tune").level,
        list(logging.getLogger().handlers),
        {name: value for name, value in os.environ.items() if name.startswith("RAYDISTILL_")},
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        signal.getsignal(signal.SIGTERM),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_given_back(fails, monkeypatch):
    monkeypatch.setenv("RAYDISTILL_OLD", "1")
    monkeypatch.setenv("RAYDISTILL_GONE", "1")
    before = look()
    try:
        with kept_surroundings():
            change_everything()
            changed = look()
            assert all(was != now for was, now in zip(before, changed, strict=True))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert look() == before


def test_another_thread_leaves_signals_alone():
    errors = []

    def run():
        try:
            with kept_surroundings():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors
