"""Weights & Biases: one run; each network has its own axis of passes.

Mode, server, project, key and folder are those of its own variables: WANDB_MODE, WANDB_BASE_URL, WANDB_DIR. Its files
are not in the run folder: links among them lead out of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.tracking.points import Facts, Point, TrialEnd


class WeightsAndBiases:
    """A run of its own, beside any that the process has. Neither the terminal nor the code is recorded."""

    name = "wandb"

    def __init__(self) -> None:
        self._run: Any = None
        self._alone = False
        self._known: set[str] = set()

    def open(self, facts: Facts, known: str | None) -> str:
        """See `Tracker`."""
        import wandb

        self._alone = wandb.run is None
        if self._run is not None:
            self._run.finish()
        self._known.clear()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or facts.project,
            name=os.environ.get("WANDB_NAME") or facts.name,
            id=known,
            resume="allow" if known else None,
            config={**facts.settings, "raydistill": facts.version},
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
        )
        return str(self._run.id)

    def log(self, network: str, points: list[Point]) -> None:
        """See `Tracker`."""
        axis = f"{network}/pass"
        if network not in self._known:
            self._known.add(network)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{network}/*", step_metric=axis)
        for point in points:
            self._run.log({axis: point.epoch, **{f"{network}/{name}": value for name, value in point.values.items()}})

    def end_trial(self, trial: TrialEnd) -> None:
        """See `Tracker`."""
        pairs = {**trial.parameters, "final_accuracy": trial.accuracy}
        self._run.summary.update({f"{trial.network}/{name}": value for name, value in pairs.items()})

    def log_figures(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """See `Tracker`."""
        self._run.summary.update(
            {f"{model}/{name}": value for model, values in figures.items() for name, value in values.items()}
        )

    def attach(self, page: Path, verdict: str) -> None:
        """See `Tracker`: the page as an artifact."""
        import wandb

        artifact = wandb.Artifact("report", type="report", description=verdict[:1000])
        artifact.add_file(str(page))
        self._run.log_artifact(artifact)

    def end_stage(self) -> None:
        """Nothing: W&B sends by itself."""

    def close(self, succeeded: bool) -> None:
        """See `Tracker`. W&B's own process ends, too, unless the user has a run of their own."""
        import wandb

        self._run.finish(exit_code=0 if succeeded else 1)
        if self._alone and wandb.run is None:
            wandb.teardown()
