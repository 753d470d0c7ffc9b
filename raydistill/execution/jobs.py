"""What a pipeline asks of a computer: jobs, their progress, their outcome, and an executor that distributes them.

    Executor    runs jobs: in this process (in_process.py) or on Ray (on_ray/)
    Job         a function of a package by name, and its arguments as JSON
    Beat        how a running function reports progress, and learns that it should stop
    JobOutcome  who ran it, how long, and the result

A job does all its reading and writing through its own folder, an epoch at a time, so that a job that is started again
goes on by itself. An executor therefore only distributes: it keeps no state that a run would need after a crash.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from raydistill.errors import DiskFullError, RaydistillError, StorageError

if TYPE_CHECKING:
    from raydistill.data.ingest import Block, Mark, Work

Beat = Callable[[dict[str, Any]], None]
"""Progress, {"epoch": 2, "epochs": 8, "fraction": 0.25}; "epoch" counts completed ones, "recent" has the records of the
last of them. Raises LeaseLost, StopTrial."""
JobFunction = Callable[[dict[str, Any], Beat], dict[str, Any]]
"""(arguments, beat) -> result, both JSON."""
Role = Literal["generalist", "specialist", "trial", "student"]
"""What a job trains, which decides its needs of a node."""
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Job:
    """A function and its arguments. name: unique within a call; function: 'package.module:function'."""

    name: str
    function: str
    arguments: dict[str, Any]
    cost: float
    """expected seconds, relative to the other jobs: the longest start first"""
    role: Role | None = None
    """what it trains; None: something else, with the needs of every job"""


@dataclass(frozen=True)
class JobEvent:
    """The latest news of a job. worker: host and process that has it, or had it last; progress: its last beat."""

    job: str
    state: Literal["waiting", "running", "done", "failed"]
    worker: str
    progress: dict[str, Any]


@dataclass(frozen=True)
class JobOutcome:
    """A finished job. started: Unix seconds; seconds, cpu_seconds: of the function's last attempt, all threads."""

    job: str
    worker: str
    started: float
    seconds: float
    cpu_seconds: float
    attempts: int
    result: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One pair of temperature and label weight. values: the metric by epoch, higher is better."""

    temperature: float
    label_weight: float
    values: tuple[float, ...]
    stopped_early: bool


@dataclass(frozen=True)
class SearchSpace:
    """Bounds, low and high: temperature log-uniform, label_weight uniform."""

    temperature: tuple[float, float]
    label_weight: tuple[float, float]


class StopTrial(Exception):
    """Raised by beat: the scheduler stops this trial. Trial functions let it through."""


class LeaseLost(Exception):
    """Raised by beat: the job was given to another worker. Job functions let it through."""


@dataclass(frozen=True)
class Failure:
    """A job that failed for good. reason: the last line of its traceback; trace: all of it, where there is one."""

    job: str
    attempts: int
    reason: str
    trace: str = ""


class JobFailed(Exception):
    """Jobs failed for good; the first one is named first, and its traceback is a note, where there is one.

    outcomes: of the jobs that finished; failures: all of them, in the order of the jobs.
    """

    def __init__(self, failures: Sequence[Failure], outcomes: Sequence[JobOutcome] = ()) -> None:
        super().__init__(tuple(failures), tuple(outcomes))
        self.failures, self.outcomes = tuple(failures), tuple(outcomes)
        if self.failures[0].trace:
            self.add_note(self.failures[0].trace)

    def __str__(self) -> str:
        first, *others = self.failures
        attempts = f"{first.attempts} attempt{'s' if first.attempts != 1 else ''}"
        text = f"job {first.job!r} failed after {attempts}: {first.reason}"
        return text + (f" (failed as well: {', '.join(failure.job for failure in others)})" if others else "")


class Executor(Protocol):
    """Where jobs run."""

    @property
    def slots(self) -> int:
        """How many jobs run at once."""

    def map(
        self, function: Callable[[Item], Value], items: Sequence[Item], on_done: Callable[[int, int], None]
    ) -> list[Value]:
        """Apply a picklable function of a module to short tasks; values in the order of items; on_done(done, total)."""

    def run_blocks(self, work: Work, blocks: Sequence[Block], on_mark: Callable[[Mark], None]) -> None:
        """Do blocks of an ingest, anywhere and in any order; on_mark(mark) of each. Raises what on_mark raises.

        Raises DataError and OSError, too, where it is not a record that is at fault, but the storage.
        """

    def run_jobs(self, jobs: Sequence[Job], on_event: Callable[[JobEvent], None], workers: int = 1) -> list[JobOutcome]:
        """Run independent jobs of one role; outcomes in the order of jobs. workers: processes of each, as in `train`.

        Raises JobFailed after every other job has ended, or StorageError where that is why they failed.
        """

    def search(
        self,
        function: str,
        arguments: dict[str, Any],
        space: SearchSpace,
        *,
        trials: int,
        epochs: int,
        grace_epochs: int,
        reduction_factor: int,
        seed: int,
        on_event: Callable[[JobEvent], None],
    ) -> list[Trial]:
        """Try pairs from the space, stopping poor ones from grace_epochs on; trials in the order of their proposal.

        The function gets {**arguments, "temperature": …, "label_weight": …} and beats {"epoch", "epochs", "value"} at
        the end of each epoch. The same seed proposes the same pairs: always up to TPE's 10 random ones; after those,
        proposals follow from the results and the order in which trials ended, so that only slots == 1 repeats them.
        Raises JobFailed if a trial fails.
        """

    def train(self, job: Job, workers: int, on_event: Callable[[JobEvent], None]) -> JobOutcome:
        """Run one job in `workers` processes at once, with torch.distributed initialised if there are several.

        The outcome is that of rank 0. Raises JobFailed.
        """

    def close(self) -> None:
        """Give back everything."""


def resolve_function(name: str) -> JobFunction:
    """Import 'package.module:function'. Raises ValueError if there is no such function."""
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"function: {name!r} cannot be imported ({error}); give 'package.module:function'") from error
    return function  # type: ignore[no-any-return]


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raise ValueError if two jobs have one name."""
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"jobs: {twice} occur more than once; give each job a name of its own")


def run_job(job: Job, beat: Beat, worker: str, attempts: int) -> JobOutcome:
    """Run a job's function in this process and measure it. Raises what the function raises."""
    function = resolve_function(job.function)  # a process imports torch once: that is no job's time
    started, clock, cpu = time.time(), time.perf_counter(), time.process_time()
    result = function(job.arguments, beat)
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
    return JobOutcome(job.name, worker, started, seconds, cpu_seconds, attempts, result)


def is_final(error: BaseException) -> bool:
    """Whether another attempt would fail in the same way: a loss that is not finite, a full disk, bad input.

    A network goes on from the same checkpoint with the same examples, and reaches the same loss.
    """
    if isinstance(error, StorageError):
        return isinstance(error, DiskFullError)
    return isinstance(error, FloatingPointError | RaydistillError)


def report_failures(failures: Sequence[Failure], outcomes: Sequence[JobOutcome]) -> JobFailed | StorageError:
    """What to raise for jobs that failed. That storage refuses to write is no job's fault, and the same for all."""
    for kind in (DiskFullError, StorageError):
        for failure in failures:
            name, _, text = failure.reason.partition(": ")
            if name == kind.__name__:
                return kind(text)
    return JobFailed(failures, outcomes)


def describe_error(error: BaseException) -> str:
    """The last line of a traceback, such as 'ValueError: no examples'."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.strip().splitlines()[-1] if "\n" in text else text
