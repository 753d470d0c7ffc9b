"""SIGTERM as an exception: what schedulers and spot machines send, some 30 seconds before they kill.

Comes in: the signal. Goes out: Terminated in the main thread, which ends a run as Ctrl-C does: pools are closed, Ray is
left, the folder's lock falls; the same command goes on from the last finished passes.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM  # as a shell tells it


class Terminated(SystemExit):
    """This process has been told to end."""


def exit_on_sigterm() -> None:
    """Let SIGTERM raise Terminated. Of no effect outside the main thread, which alone may choose.

    Ray asks for the same, but its C++ part then prints a stack trace, and aborts the process after 3 s (measured).
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the tidying up
    raise Terminated(EXIT_CODE)
