"""The search by Ray Tune: Optuna proposes, asynchronous successive halving stops, actors are used again.

Trials are plain functions. No state of Tune or Optuna is read again: a search that is started anew proposes the same
pairs, and each trial replays from its own folder what it did before. What Tune writes is kept below the scratch folder
as an experiment of its own form, for ray.tune.ExperimentAnalysis and the like.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from raydistill.errors import StorageError
from raydistill.execution.in_process import search_distributions
from raydistill.execution.jobs import (
    Failure,
    JobEvent,
    JobFailed,
    SearchSpace,
    StopTrial,
    Trial,
    describe_error,
    report_failures,
    resolve_function,
)
from raydistill.on_ray.pool import PoolOptions
from raydistill.storage.folders import publish, remove

TRIAL_RETRIES = 2
EXPERIMENT = "search"  # its folder, in the scratch folder
TOLD = ("loss", "valid_loss", "learning_rate")  # what Tune is told of a pass, beside the metric


def run_search(
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
    options: PoolOptions,
    verbose: bool,
) -> list[Trial]:
    """Try `trials` pairs; the rest as Executor.search says. Raises JobFailed if a trial fails."""
    optuna.logging.set_verbosity(optuna.logging.INFO if verbose else optuna.logging.WARNING)
    recorder = Recorder(trials, epochs, on_event)
    remove(options.scratch / EXPERIMENT)  # of a search that was interrupted, or is redone
    tuner = tune.Tuner(
        tune.with_resources(make_trainable(function, arguments, epochs), dict(options.resources)),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                space=search_distributions(space),
                metric="value",
                mode="max",
                sampler=optuna.samplers.TPESampler(seed=seed),
            ),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                metric="value",
                mode="max",
                max_t=epochs,
                grace_period=min(grace_epochs, epochs),
                reduction_factor=reduction_factor,
            ),
            num_samples=trials,
            max_concurrent_trials=max(1, min(trials, options.most)),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(options.scratch),
            callbacks=[recorder, JsonLoggerCallback(), CSVLoggerCallback()],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            verbose=1 if verbose else 0,
        ),
    )
    with warnings.catch_warnings():  # a trial that is run again replays epochs that Optuna knows
        warnings.filterwarnings("ignore", message="The reported value is ignored")
        results = tuner.fit()
    if results.errors:
        raise recorder.describe_failure() from results.errors[0]
    publish(options.scratch / EXPERIMENT)
    return recorder.trials()


def make_trainable(function: str, arguments: dict[str, Any], epochs: int) -> Callable[[dict[str, Any]], None]:
    """Tune's function for a trial function."""

    def run_trial(config: dict[str, Any]) -> None:
        # Measured: if the thread of a stopped trial outlives this (2 s by default), Tune 2.60 waits for ever.
        os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600")
        job = resolve_function(function)
        beat = TuneBeat(epochs)
        with contextlib.suppress(StopTrial):
            job({**arguments, **config}, beat)
        if beat.stopped:
            raise SystemExit(0)  # as Tune itself ends a thread; its wrapper would report a return, and wait for ever

    return run_trial


class TuneBeat:
    """A Beat that reports each epoch's value to Tune and waits for its decision. stopped: the decision was to stop."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._began = epochs, time.monotonic()
        self.stopped = False

    def __call__(self, progress: dict[str, Any]) -> None:
        """Report. Raises StopTrial, but not after the last epoch: the function then ends by itself."""
        if "value" not in progress:
            return
        epoch = int(progress["epoch"])
        try:
            seconds = time.monotonic() - self._began
            told = {name: float(progress[name]) for name in TOLD if name in progress}
            tune.report({"value": float(progress["value"]), "epoch": epoch, "seconds": seconds, **told})
        except SystemExit:  # read in its source: report stops a function so, and only so can the actor be used again
            self.stopped = True
            if epoch < self._epochs:
                raise StopTrial from None


@dataclass
class Record:
    """What is known of a trial. values: the metric by epoch; worker: who had its last epoch; seconds: until its end.

    latest: other numbers of its last epoch.
    """

    parameters: dict[str, float]
    values: dict[int, float] = field(default_factory=dict)
    worker: str = ""
    seconds: float = 0.0
    latest: dict[str, float] = field(default_factory=dict)


class Recorder(tune.Callback):
    """Keeps each trial's values by epoch, and turns Tune's news into JobEvents. Tune calls it in the driver."""

    def __init__(self, count: int, epochs: int, on_event: Callable[[JobEvent], None]) -> None:
        self._epochs, self._on_event = epochs, on_event
        self._records: dict[int, Record] = {}
        self._failed: list[Any] = []
        for index in range(count):
            on_event(JobEvent(name_trial(index), "waiting", "", {}))

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its callbacks for a restoration that never comes, and a display cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A process took the trial."""
        self._tell(trial, "running")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended."""
        record = self._find(trial)
        record.values[int(result["epoch"])] = float(result["value"])
        record.seconds = float(result["seconds"])
        record.latest = {name: float(result[name]) for name in TOLD if name in result}
        record.worker = f"{result.get('hostname', '')}:{result.get('pid', '')}"
        self._tell(trial, "running")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended, early or not."""
        self._tell(trial, "done")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._failed.append(trial)
        self._tell(trial, "failed")

    def describe_failure(self) -> JobFailed | StorageError:
        """The failed trials as one error; after Tune has ended, because only then it has stored what they raised."""
        return report_failures(
            [
                Failure(name_trial(place_of(trial)), trial.num_failures, describe_cause(trial.get_pickled_error()))
                for trial in sorted(self._failed, key=place_of)
            ],
            [],
        )

    def trials(self) -> list[Trial]:
        """All trials, in the order of their proposal."""
        found = []
        for _, record in sorted(self._records.items()):
            values = tuple(record.values[epoch] for epoch in sorted(record.values))
            found.append(Trial(**record.parameters, values=values, stopped_early=len(values) < self._epochs))
        return found

    def _find(self, trial: Any) -> Record:
        names = ("temperature", "label_weight")
        return self._records.setdefault(place_of(trial), Record({name: float(trial.config[name]) for name in names}))

    def _tell(self, trial: Any, state: Literal["running", "done", "failed"]) -> None:
        record = self._find(trial)
        epoch = max(record.values, default=0)
        progress: dict[str, Any] = {"epoch": epoch, "epochs": self._epochs, "fraction": epoch / self._epochs}
        if record.values:
            progress |= {"value": record.values[epoch], "seconds": record.seconds, **record.latest}
        self._on_event(JobEvent(name_trial(place_of(trial)), state, record.worker, progress))


def place_of(trial: Any) -> int:
    """Number of a trial in the order of proposal, from 0.

    Its tag tells, "3_label_weight=…"; its place in Tune's list does not, for a trial that is run again goes to the end.
    """
    return int(trial.experiment_tag.partition("_")[0]) - 1


def describe_cause(error: Exception | None) -> str:
    """What a trial's function raised, or that it raised nothing."""
    if isinstance(error, RayActorError):
        return "its process died"
    cause = getattr(error, "cause", None) or error
    return describe_error(cause) if cause else "no reason given"


def name_trial(index: int) -> str:
    """Name in events."""
    return f"trial {index:03d}"
