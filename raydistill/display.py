"""What a person sees of a run: one live display on a terminal; plain lines, at most one in ten seconds, elsewhere.

Comes in: stages, fractions and job events. Goes out: text on standard error. The lines are the same in both forms.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from raydistill.execution.jobs import JobEvent

PLAIN_SECONDS = 10.0
SHOWN_JOBS = 4  # of those that run, in a line


class Display(Protocol):
    """How stages speak to the user."""

    def begin_stage(self, name: str, number: int, total: int) -> None:
        """A stage begins; number counts from 1."""

    def end_stage(self, seconds: float, skipped: bool) -> None:
        """The stage ended, or was found finished."""

    def update(self, fraction: float, text: str) -> None:
        """The stage is so far, 0 to 1."""

    def on_event(self, event: JobEvent) -> None:
        """A job of the stage started, went on, or ended."""

    def note(self, text: str) -> None:
        """A result worth a line."""

    def close(self) -> None:
        """Nothing more will be shown."""


class Silent:
    """Shows nothing; for tests and for callers who have their own display."""

    def begin_stage(self, name: str, number: int, total: int) -> None:
        """Nothing."""

    def end_stage(self, seconds: float, skipped: bool) -> None:
        """Nothing."""

    def update(self, fraction: float, text: str) -> None:
        """Nothing."""

    def on_event(self, event: JobEvent) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class JobBoard:
    """The latest state of each job of a stage, summed up in one line, in the same time for any number of jobs."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobEvent] = {}
        self._running: dict[str, JobEvent] = {}
        self._counts: Counter[str] = Counter()
        self._passed = 0.0

    def add(self, event: JobEvent) -> None:
        """Take in an event."""
        before = self.jobs.get(event.job)
        if before is not None:
            self._counts[before.state] -= 1
            self._passed -= _progress(before)
        self.jobs[event.job] = event
        self._counts[event.state] += 1
        self._passed += _progress(event)
        if event.state == "running":
            self._running[event.job] = event
        else:
            self._running.pop(event.job, None)

    def fraction(self) -> float:
        """Mean progress of all jobs, 0 to 1."""
        return min(1.0, self._passed / max(1, len(self.jobs)))

    def describe(self) -> str:
        """Counts by state, and epoch and accuracy of those running."""
        at_work = list(islice(self._running.values(), SHOWN_JOBS))
        if len(self.jobs) == 1 and at_work:
            return describe_progress(at_work[0]) or "started"
        counts = {state: self._counts[state] for state in ("running", "done", "waiting", "failed")}
        running = [": ".join(filter(None, (job.job, describe_progress(job)))) for job in at_work]
        text = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return text + (f" ({'; '.join(running)}{'; …' if len(self._running) > SHOWN_JOBS else ''})" if running else "")


def _progress(event: JobEvent) -> float:
    """How far a job is, 0 to 1."""
    return 1.0 if event.state == "done" else float(event.progress.get("fraction", 0.0))


def describe_progress(event: JobEvent) -> str:
    """Pass and validation accuracy of a running job, as far as they are known."""
    parts = []
    if "epochs" in event.progress:
        parts.append(f"pass {int(event.progress.get('epoch', 0))} of {event.progress['epochs']}")
    if "value" in event.progress:
        parts.append(f"{event.progress['value']:.1%} right")
    return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Lines:
    """Plain lines: the beginning and end of a stage, and in between at most one in ten seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._stage, self._began, self._last = "", 0.0, 0.0
        self._fraction, self._board = 0.0, JobBoard()

    def begin_stage(self, name: str, number: int, total: int) -> None:
        """Remember the stage; it is named when it ends, or with its first update."""
        self._stage = f"[{number}/{total}] {name}"
        self._began = self._last = self._clock()
        self._fraction, self._board = 0.0, JobBoard()

    def end_stage(self, seconds: float, skipped: bool) -> None:
        """One line."""
        self._write(f"{self._stage}: {'finished before, skipped' if skipped else 'done in ' + format_seconds(seconds)}")

    def update(self, fraction: float, text: str) -> None:
        """A line, if the last was ten seconds ago."""
        self._fraction = fraction
        if self._clock() - self._last >= PLAIN_SECONDS:
            self._last = self._clock()
            self._write(f"{self._stage}: {text}{self._time_left()}")

    def on_event(self, event: JobEvent) -> None:
        """As an update."""
        self._board.add(event)
        self.update(self._board.fraction(), self._board.describe())

    def note(self, text: str) -> None:
        """A line; before the first stage, of the run as a whole."""
        self._write(f"{self._stage}: {text}" if self._stage else text)

    def close(self) -> None:
        """Nothing."""

    def _time_left(self) -> str:
        if not 0.02 < self._fraction < 1:
            return ""
        passed = self._clock() - self._began
        return f", about {format_seconds(passed * (1 - self._fraction) / self._fraction)} left"


class Live:
    """One live line with a bar on a terminal; results scroll above it."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[stage]}", style="bold"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=1.0, stage="", text="")
        self._lines = Lines(lambda line: self._progress.console.print(line, highlight=False, markup=False))
        self._board = JobBoard()
        self._began = 0.0
        self._progress.start()

    def begin_stage(self, name: str, number: int, total: int) -> None:
        """Reset the bar."""
        self._lines.begin_stage(name, number, total)
        self._board, self._began = JobBoard(), time.monotonic()
        self._progress.reset(self._task, stage=f"[{number}/{total}] {name}", text="")

    def end_stage(self, seconds: float, skipped: bool) -> None:
        """A line above the bar."""
        self._lines.end_stage(seconds, skipped)

    def update(self, fraction: float, text: str) -> None:
        """Move the bar."""
        passed = time.monotonic() - self._began
        left = f"  {format_seconds(passed * (1 - fraction) / fraction)} left" if 0.02 < fraction < 1 else ""
        self._progress.update(self._task, completed=fraction, text=text + left)

    def on_event(self, event: JobEvent) -> None:
        """Move the bar by all jobs' progress."""
        self._board.add(event)
        self.update(self._board.fraction(), self._board.describe())

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._lines.note(text)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def open_display() -> Display:
    """An output of its own in a notebook; on standard error, the live display on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    if console.is_jupyter:
        from raydistill.notebook import Notebook

        return Notebook()
    if console.is_terminal:
        return Live(console)
    return Lines(lambda line: print(line, file=console.file, flush=True))
