"""Processes that a test has started, known by a mark in their environment."""

import psutil

MARK = "RAYDISTILL_TEST_MARK"


def list_marked(mark: str) -> list[str]:
    """Living processes that carry the mark, their own children included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(f"{process.pid} {process.name()}")
        except psutil.Error:
            continue
    return found
