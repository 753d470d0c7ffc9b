"""MLflow: one run, whose parameters are the settings and whose metrics are named network/number.

Server and experiment are those of MLflow's own variables: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and the like.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raydistill.tracking.points import Facts, Point, TrialEnd

BATCH_METRICS, BATCH_PARAMETERS = 1000, 100  # MLflow's limits of a call
LONGEST_VALUE = 500  # characters of a parameter
LOGGERS = ("mlflow", "alembic")


class MLflow:
    """A client's calls; MLflow's global state stays as it is."""

    name = "mlflow"

    def __init__(self) -> None:
        self._client: Any = None
        self._run = ""

    def open(self, facts: Facts, known: str | None) -> str:
        """See `Tracker`. A run that the server no longer has is begun anew."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        with _quiet():
            self._client = MlflowClient()
            if known is not None:
                with contextlib.suppress(MlflowException):
                    self._client.update_run(known, status="RUNNING")
                    self._run = known
                    return known
            experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._find_experiment(facts.project)
            tags = {"mlflow.source.name": "raydistill", "raydistill.version": facts.version}
            self._run = self._client.create_run(experiment, run_name=facts.name, tags=tags).info.run_id
            self._log_settings(facts.settings)
        return self._run

    def log(self, network: str, points: list[Point]) -> None:
        """See `Tracker`."""
        self._log_metrics(
            [(f"{network}/{name}", value, point.epoch) for point in points for name, value in point.values.items()]
        )

    def end_trial(self, trial: TrialEnd) -> None:
        """See `Tracker`: its parameters beside its curve, as metrics, for a run's parameters are the settings."""
        pairs = {**trial.parameters, "final_accuracy": trial.accuracy}
        self._log_metrics([(f"{trial.network}/{name}", value, 0) for name, value in pairs.items()])

    def log_figures(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """See `Tracker`."""
        self._log_metrics(
            [(f"{model}/{name}", value, 0) for model, values in figures.items() for name, value in values.items()]
        )

    def attach(self, page: Path, verdict: str) -> None:
        """See `Tracker`: the page as an artifact."""
        with _quiet():
            self._client.log_artifact(self._run, str(page))
            self._client.set_tag(self._run, "mlflow.note.content", verdict)

    def end_stage(self) -> None:
        """Nothing: each call is whole."""

    def close(self, succeeded: bool) -> None:
        """See `Tracker`."""
        with _quiet():
            self._client.set_terminated(self._run, "FINISHED" if succeeded else "KILLED")

    def _find_experiment(self, project: str) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or project
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in settings.items()]
        for start in range(0, len(parameters), BATCH_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + BATCH_PARAMETERS])

    def _log_metrics(self, values: list[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value, step in values]
        with _quiet():
            for start in range(0, len(metrics), BATCH_METRICS):
                self._client.log_batch(self._run, metrics=metrics[start : start + BATCH_METRICS])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow tells of tables that it creates, and the like."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
