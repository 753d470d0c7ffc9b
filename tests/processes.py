"""Processes that a test has started, known by a mark in their environment."""

import time

import psutil

from benchmarks.raylets import END_SECONDS, MARK

__all__ = ["MARK", "await_end", "list_marked"]


def list_marked(mark: str) -> list[str]:
    """Living processes that carry the mark, their own children included.

    Ray's two agents are mostly not seen: their titles are written over their environment (setproctitle).
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(f"{process.pid} {process.name()}")
        except psutil.Error:
            continue
    return found


def await_end(mark: str) -> list[str]:
    """Processes that carry the mark and live on after END_SECONDS."""
    deadline = time.monotonic() + END_SECONDS
    while (left := list_marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
