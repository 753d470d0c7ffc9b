"""A tracker behind a thread: the run never waits for a server, and never ends because of one.

Comes in: news in the order of the run. Goes out: calls of the tracker, and lines of its ledger. What a tracker raises
is told once, and it is left out.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from raydistill.errors import describe_in_line
from raydistill.settings.credentials import hide_credentials
from raydistill.tracking.ledger import Ledger
from raydistill.tracking.points import Facts, Point, StageNews, Tracker

CLOSE_SECONDS = 60.0


class Feed:
    """Hands news to one tracker."""

    def __init__(self, tracker: Tracker, ledger: Ledger, facts: Facts, note: Callable[[str], None]) -> None:
        """note: tells the user of a failure; it is called in the caller's thread alone."""
        self._tracker, self._ledger, self._facts, self._note = tracker, ledger, facts, note
        self._news: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._told: list[StageNews] = []
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracking {tracker.name}", daemon=True)
        self._thread.start()
        self._news.put(self._open)

    def tell_points(self, network: str, points: list[Point]) -> None:
        """A network has done passes."""
        self._news.put(lambda: self._log(network, points))
        self._note_failure()

    def tell_stage(self, news: StageNews) -> None:
        """A stage is finished."""
        self._news.put(lambda: self._tell(news))
        self._note_failure()

    def close(self, succeeded: bool) -> None:
        """Hand over what is left, and end; a tracker that does not answer is left after a minute."""
        self._news.put(lambda: self._tracker.close(succeeded))
        self._news.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._note(
                f"tracking: {self._tracker.name} has not answered for {CLOSE_SECONDS:.0f} s and is left; the same"
                " command tells it what is missing"
            )
        self._note_failure()

    def _note_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self._note(failure)

    def _work(self) -> None:
        while (action := self._news.get()) is not None:
            try:
                action()
            except Exception as error:  # whatever a server, a network or a package brings: the run goes on
                reason = hide_credentials(describe_in_line(error))
                self._failure = f"tracking: {self._tracker.name} failed and is left out, the run goes on: {reason}"
                break

    def _open(self) -> None:
        self._ledger.begin(self._tracker.open(self._facts, self._ledger.known))

    def _log(self, network: str, points: list[Point]) -> None:
        chosen = self._ledger.choose(network, points)
        if chosen:
            self._tracker.log(network, chosen)
            self._ledger.note_points(network, chosen)

    def _tell(self, news: StageNews) -> None:
        before = self._ledger.stage_key(news.stage)
        if before not in (None, news.key):  # the stage was made again: begin anew, and tell all of it
            self._ledger.forget()
            self._open()
            for earlier in self._told:
                self._tell_all(earlier)
            before = None
        self._told.append(news)
        if before is None:
            self._tell_all(news)

    def _tell_all(self, news: StageNews) -> None:
        for network, points in news.histories.items():
            self._log(network, points)
        for trial in news.trials:
            self._tracker.end_trial(trial)
        if news.figures:
            self._tracker.log_figures(news.figures)
        if news.page is not None:
            self._tracker.attach(news.page, news.verdict)
        self._tracker.end_stage()
        self._ledger.note_stage(news.stage, news.key)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; a model's options are one value."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        deep = isinstance(value, dict) and name != "options"
        flat |= flatten(value, f"{prefix}{name}.") if deep else {prefix + name: value}
    return flat
