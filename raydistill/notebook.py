"""The display in a notebook: one output that is replaced as the run goes on, and stays as lines when it ends.

Comes in: as display.py. Goes out: HTML by IPython's own display handles, which need no widgets.
"""

from __future__ import annotations

import html
import importlib
import time
from collections.abc import Callable
from typing import Any

from raydistill.display import JobBoard, Lines, format_seconds
from raydistill.execution.jobs import JobEvent

REFRESH_SECONDS = 0.25
STYLE = "margin:0;background:none;border:none;padding:0;white-space:pre-wrap;font-size:90%"


class Notebook:
    """Lines of what is finished; below them, while the run goes on, a bar of what is under way."""

    def __init__(self, show: Callable[[str], Callable[[str], None]] | None = None) -> None:
        """show: displays HTML, and returns what replaces it; left out: IPython's."""
        self._lines: list[str] = []
        self._told = Lines(self._lines.append)
        self._board, self._began, self._last = JobBoard(), time.monotonic(), 0.0
        self._stage, self._fraction, self._text = "", 0.0, ""
        self._update = (show or show_html)(self._render())

    def begin_stage(self, name: str, number: int, total: int) -> None:
        """A bar from its start."""
        self._told.begin_stage(name, number, total)
        self._board, self._began = JobBoard(), time.monotonic()
        self._stage, self._fraction, self._text = f"[{number}/{total}] {name}", 0.0, ""
        self._refresh()

    def end_stage(self, seconds: float, skipped: bool) -> None:
        """A line."""
        self._told.end_stage(seconds, skipped)
        self._refresh(now=not skipped)

    def update(self, fraction: float, text: str) -> None:
        """Move the bar."""
        self._fraction, self._text = fraction, text
        self._refresh()

    def on_event(self, event: JobEvent) -> None:
        """Move the bar by all jobs' progress."""
        self._board.add(event)
        self.update(self._board.fraction(), self._board.describe())

    def note(self, text: str) -> None:
        """A line."""
        self._told.note(text)
        self._refresh(now=True)

    def close(self) -> None:
        """The lines alone."""
        self._stage = ""
        self._refresh(now=True)

    def _refresh(self, now: bool = False) -> None:
        if now or time.monotonic() - self._last >= REFRESH_SECONDS:
            self._last = time.monotonic()
            self._update(self._render())

    def _render(self) -> str:
        lines = html.escape("\n".join(self._lines))
        return f'<pre style="{STYLE}">{lines}</pre>{self._render_bar() if self._stage else ""}'

    def _render_bar(self) -> str:
        passed = time.monotonic() - self._began
        left = passed * (1 - self._fraction) / self._fraction if 0.02 < self._fraction < 1 else 0.0
        text = f"{self._text}  {format_seconds(left)} left" if left else self._text
        return (
            f'<pre style="{STYLE}"><b>{html.escape(self._stage)}</b> <progress value="{self._fraction:.3f}" max="1">'
            f"</progress> {self._fraction:.0%}  {html.escape(text)}</pre>"
        )


def show_html(first: str) -> Callable[[str], None]:
    """Display HTML in the notebook's cell; returns what replaces it."""
    ipython: Any = importlib.import_module("IPython.display")  # it brings no types
    handle = ipython.display(ipython.HTML(first), display_id=True)
    return lambda text: handle.update(ipython.HTML(text))
