"""The search by Ray Tune: Optuna proposes, asynchronous successive halving stops, actors are used again.

Trials are plain functions. No state of Tune or Optuna outlives the call: a search that is started again proposes the same
pairs, and each trial replays from its own folder what it did before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from raydistill.execution import (
    JobEvent,
    JobFailed,
    SearchSpace,
    StopTrial,
    Trial,
    describe_error,
    resolve_function,
)
from raydistill.in_process import search_distributions
from raydistill.on_ray.pool import PoolOptions, worker_resources

TRIAL_RETRIES = 2


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
    recorder, name = Recorder(trials, epochs, on_event), f"search-{uuid.uuid4().hex[:8]}"
    tuner = tune.Tuner(
        tune.with_resources(
            make_trainable(function, arguments, epochs), worker_resources(options.cpus_per_job, options.gpus_per_job)
        ),
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
            max_concurrent_trials=options.slots,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(options.scratch),
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            verbose=1 if verbose else 0,
        ),
    )
    with warnings.catch_warnings():  # a trial that is run again replays epochs that Optuna knows
        warnings.filterwarnings("ignore", message="The reported value is ignored")
        results = tuner.fit()
    if results.errors:
        raise recorder.describe_failure() from results.errors[0]
    shutil.rmtree(options.scratch / name, ignore_errors=True)
    return recorder.trials()


def make_trainable(function: str, arguments: dict[str, Any], epochs: int) -> Callable[[dict[str, Any]], None]:
    """Tune's function for a trial function."""

    def run_trial(config: dict[str, Any]) -> None:
        # Measured: if the thread of a stopped trial outlives this (2 s by default), Tune 2.60 waits for ever.
        os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600")
        beat = TuneBeat(epochs)
        with contextlib.suppress(StopTrial):
            resolve_function(function)({**arguments, **config}, beat)
        if beat.stopped:
            raise SystemExit(0)  # as Tune itself ends a thread; its wrapper would report a return, and wait for ever

    return run_trial


class TuneBeat:
    """A Beat that reports each epoch's value to Tune and waits for its decision. stopped: the decision was to stop."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self.stopped = False

    def __call__(self, progress: dict[str, Any]) -> None:
        """Report. Raises StopTrial, but not after the last epoch: the function then ends by itself."""
        if "value" not in progress:
            return
        epoch = int(progress["epoch"])
        try:
            tune.report({"value": float(progress["value"]), "epoch": epoch})
        except SystemExit:  # read in its source: report stops a function so, and only so can the actor be used again
            self.stopped = True
            if epoch < self._epochs:
                raise StopTrial from None


class Recorder(tune.Callback):
    """Keeps each trial's values by epoch, and turns Tune's news into JobEvents. Tune calls it in the driver."""

    def __init__(self, count: int, epochs: int, on_event: Callable[[JobEvent], None]) -> None:
        self._epochs, self._on_event = epochs, on_event
        self._index: dict[str, int] = {}
        self._configs: dict[int, dict[str, float]] = {}
        self._values: dict[int, dict[int, float]] = {}
        self._failed: tuple[str, int, str] = ("", 0, "")
        for index in range(count):
            on_event(JobEvent(name_trial(index), "waiting", "", {}))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended."""
        index = self._enter(trials, trial)
        self._values[index][int(result["epoch"])] = float(result["value"])
        worker = f"{result.get('hostname', '')}:{result.get('pid', '')}"
        self._on_event(JobEvent(name_trial(index), "running", worker, self._progress(index)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended, early or not."""
        index = self._enter(trials, trial)
        self._on_event(JobEvent(name_trial(index), "done", "", self._progress(index)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        index = self._enter(trials, trial)
        error = trial.get_error()
        cause = getattr(error, "cause", None) or error
        self._failed = (name_trial(index), trial.num_failures, describe_error(cause) if cause else "no reason given")
        self._on_event(JobEvent(name_trial(index), "failed", "", self._progress(index)))

    def describe_failure(self) -> JobFailed:
        """The last failed trial as an error."""
        return JobFailed(*self._failed)

    def trials(self) -> list[Trial]:
        """All trials, in the order of their proposal."""
        found = []
        for index in sorted(self._configs):
            values = tuple(self._values[index][epoch] for epoch in sorted(self._values[index]))
            found.append(Trial(**self._configs[index], values=values, stopped_early=len(values) < self._epochs))
        return found

    def _enter(self, trials: list[Any], trial: Any) -> int:
        if trial.trial_id not in self._index:
            index = next(place for place, other in enumerate(trials) if other.trial_id == trial.trial_id)
            self._index[trial.trial_id] = index
            self._configs[index] = {name: float(trial.config[name]) for name in ("temperature", "label_weight")}
            self._values[index] = {}
        return self._index[trial.trial_id]

    def _progress(self, index: int) -> dict[str, Any]:
        values = self._values[index]
        epoch = max(values, default=0)
        progress: dict[str, Any] = {"epoch": epoch, "epochs": self._epochs, "fraction": epoch / self._epochs}
        return {**progress, "value": values[epoch]} if values else progress


def name_trial(index: int) -> str:
    """Name in events."""
    return f"trial {index:03d}"
