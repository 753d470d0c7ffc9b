"""When the trials of a search ran, from the events that a display gets, too. Jobs tell it in their outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from raydistill.execution.jobs import JobEvent


class TrialTimes:
    """Passes a search's events on, and notes when each trial ran."""

    def __init__(self, on_event: Callable[[JobEvent], None]) -> None:
        self._on_event = on_event
        self._first: dict[str, float] = {}
        self._last: dict[str, tuple[JobEvent, float]] = {}

    def __call__(self, event: JobEvent) -> None:
        """An event."""
        now = time.time()
        if event.state == "running":
            self._first.setdefault(event.job, now)
            self._last[event.job] = event, now
        self._on_event(event)

    def records(self) -> list[dict[str, Any]]:
        """job, worker, started (Unix seconds) and seconds of each trial."""
        found = []
        for job, (event, ended) in sorted(self._last.items()):
            seconds = float(event.progress.get("seconds", ended - self._first[job]))  # its worker's clock, if it told
            found.append({"job": job, "worker": event.worker, "started": ended - seconds, "seconds": seconds})
        return found
