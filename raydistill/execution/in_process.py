"""The executor without a cluster: everything in this process, one thing after another. For development and tests.

It keeps no queue and imports no Ray. Jobs run in the given order and only once: what fails here would fail again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import optuna

from raydistill.data.ingest import Block, Mark, Work
from raydistill.data.ingestion import run_here
from raydistill.execution.jobs import (
    Failure,
    Item,
    Job,
    JobEvent,
    JobOutcome,
    SearchSpace,
    StopTrial,
    Trial,
    Value,
    check_jobs,
    describe_error,
    report_failures,
    resolve_function,
    run_job,
)


class InProcess:
    """One slot: this process."""

    def __init__(self) -> None:
        self.slots = 1
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def map(
        self, function: Callable[[Item], Value], items: Sequence[Item], on_done: Callable[[int, int], None]
    ) -> list[Value]:
        """Apply the function to each item in turn."""
        values = []
        for item in items:
            values.append(function(item))
            on_done(len(values), len(items))
        return values

    def run_blocks(self, work: Work, blocks: Sequence[Block], on_mark: Callable[[Mark], None]) -> None:
        """Do the blocks in turn."""
        run_here(work, blocks, on_mark)

    def run_jobs(self, jobs: Sequence[Job], on_event: Callable[[JobEvent], None], workers: int = 1) -> list[JobOutcome]:
        """Run the jobs in turn. Raises JobFailed after all others have run, or ValueError for several workers."""
        check_jobs(jobs)
        if workers != 1:
            raise ValueError(f"workers: {workers} need a cluster; take 1, or the backend 'ray'")
        for job in jobs:
            on_event(JobEvent(job.name, "waiting", "", {}))
        results = [self._try_job(job, on_event) for job in jobs]
        outcomes = [result for result in results if isinstance(result, JobOutcome)]
        if len(outcomes) < len(jobs):
            failed = [(job, result) for job, result in zip(jobs, results, strict=True) if isinstance(result, Exception)]
            failures = [Failure(job.name, 1, describe_error(error)) for job, error in failed]
            raise report_failures(failures, outcomes) from failed[0][1]
        return outcomes

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
        """Search with Optuna itself: the same proposals as on Ray, and successive halving."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=grace_epochs, reduction_factor=reduction_factor, min_early_stopping_rate=0
            ),
        )
        distributions = search_distributions(space)
        return [
            self._run_trial(study, study.ask(distributions), function, arguments, epochs, on_event)
            for _ in range(trials)
        ]

    def train(self, job: Job, workers: int, on_event: Callable[[JobEvent], None]) -> JobOutcome:
        """Run the job here. Raises ValueError for several workers."""
        return self.run_jobs([job], on_event, workers)[0]

    def close(self) -> None:
        """Nothing to give back."""

    def _try_job(self, job: Job, on_event: Callable[[JobEvent], None]) -> JobOutcome | Exception:
        last: dict[str, Any] = {}

        def beat(progress: dict[str, Any]) -> None:
            last.update(progress)
            on_event(JobEvent(job.name, "running", self._worker, dict(progress)))

        on_event(JobEvent(job.name, "running", self._worker, {}))
        try:
            outcome = run_job(job, beat, self._worker, attempts=1)
        except Exception as error:
            on_event(JobEvent(job.name, "failed", self._worker, last))
            return error
        on_event(JobEvent(job.name, "done", self._worker, last))
        return outcome

    def _run_trial(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        function: str,
        arguments: dict[str, Any],
        epochs: int,
        on_event: Callable[[JobEvent], None],
    ) -> Trial:
        values: dict[int, float] = {}
        name = f"trial {trial.number:03d}"

        def beat(progress: dict[str, Any]) -> None:
            on_event(JobEvent(name, "running", self._worker, progress))
            if "value" not in progress:
                return
            epoch = int(progress["epoch"])
            values[epoch] = float(progress["value"])
            trial.report(values[epoch], epoch)
            if epoch < epochs and trial.should_prune():
                raise StopTrial

        try:
            resolve_function(function)({**arguments, **trial.params}, beat)
        except StopTrial:
            pass
        except Exception as error:
            on_event(JobEvent(name, "failed", self._worker, {}))
            raise report_failures([Failure(name, 1, describe_error(error))], []) from error
        ordered = tuple(values[epoch] for epoch in sorted(values))
        study.tell(trial, ordered[-1])  # a stopped trial's last value informs the search too, as on Ray
        on_event(JobEvent(name, "done", self._worker, {"epoch": len(ordered), "epochs": epochs, "value": ordered[-1]}))
        return Trial(**trial.params, values=ordered, stopped_early=len(ordered) < epochs)


def search_distributions(space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """The space in Optuna's words; the order of names decides the proposals, so that both executors use this one."""
    return {
        "temperature": optuna.distributions.FloatDistribution(*space.temperature, log=True),
        "label_weight": optuna.distributions.FloatDistribution(*space.label_weight),
    }
