"""A display that also tells trackers: what it hears of jobs at once, and of a finished stage what its files hold.

Comes in: settings and the user's display. Goes out: that display, watched by the trackers that the settings ask for.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from raydistill.display import Display
from raydistill.errors import ConfigError, describe_in_line
from raydistill.execution.jobs import JobEvent
from raydistill.settings.config import Config
from raydistill.settings.credentials import hide_credentials
from raydistill.storage.files import hash_json
from raydistill.storage.folders import publish, refresh
from raydistill.storage.manifest import result_settings
from raydistill.storage.run_folder import RunFolder
from raydistill.tracking.feed import Feed, flatten
from raydistill.tracking.ledger import Ledger
from raydistill.tracking.points import Facts, Tracker, name_network, read_event, read_stage
from raydistill.tracking.settings import TrackingConfig
from raydistill.version import __version__

SILENT_STAGES = ("data", "splits", "confusion", "groups", "targets")  # nothing of them is tracked


def watch(config: Config, display: Display) -> Display:
    """The display, watched. Raises ConfigError where a tracker's package is missing."""
    makers = choose_trackers(config.tracking)
    return Watched(config, display, makers) if makers else display


Maker = Callable[[Path], Tracker]
"""A run's local folder -> a tracker."""


def choose_trackers(settings: TrackingConfig) -> dict[str, Maker]:
    """By name, how each tracker is made that the settings ask for."""
    makers: dict[str, Maker] = {}
    if settings.tensorboard:
        from raydistill.tracking.board import TensorBoard

        makers["tensorboard"] = lambda folder: TensorBoard(folder / "tensorboard")
    if settings.mlflow:
        check_package("mlflow")
        from raydistill.tracking.mlflow import MLflow

        makers["mlflow"] = lambda folder: MLflow()
    if settings.wandb:
        check_package("wandb")
        from raydistill.tracking.wandb import WeightsAndBiases

        makers["wandb"] = lambda folder: WeightsAndBiases()
    return makers


def check_package(name: str) -> None:
    """Raise ConfigError where an optional package is missing."""
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"tracking.{name}: needs the package {name}; pip install 'raydistill[{name}]'")


class Watched:
    """A display and the feeds of trackers. They open when the first stage begins: the run folder is locked then."""

    def __init__(self, config: Config, display: Display, makers: dict[str, Maker]) -> None:
        self._config, self._display, self._makers = config, display, makers
        self._run: RunFolder | None = None
        self._feeds: list[Feed] = []
        self._stage = ""

    def begin_stage(self, name: str, number: int, total: int) -> None:
        """As the display's."""
        self._display.begin_stage(name, number, total)
        self._stage = name
        if self._run is None:
            self._run = RunFolder(self._config.run_dir)
            self._open(self._run)

    def end_stage(self, seconds: float, skipped: bool) -> None:
        """As the display's; all that the stage's files hold is told."""
        self._display.end_stage(seconds, skipped)
        if self._run is None or not self._feeds or self._stage in SILENT_STAGES:
            return
        try:
            key = self._run.read_manifest()["stages"][self._stage]["key"]
            news = read_stage(self._run, self._config, self._stage, key)
        except Exception as error:  # trackers are no reason for a run to end
            self.note(f"tracking: {self._stage} cannot be told: {describe_in_line(error)}")
            return
        for feed in self._feeds:
            feed.tell_stage(news)

    def update(self, fraction: float, text: str) -> None:
        """As the display's."""
        self._display.update(fraction, text)

    def on_event(self, event: JobEvent) -> None:
        """As the display's; passes are told."""
        self._display.on_event(event)
        points = read_event(event)
        if points:
            for feed in self._feeds:
                feed.tell_points(name_network(event.job), points)

    def note(self, text: str) -> None:
        """As the display's."""
        self._display.note(text)

    def close(self) -> None:
        """End all feeds, then the display. Called while an error is on its way, too."""
        succeeded = sys.exc_info()[0] is None
        for feed in self._feeds:
            feed.close(succeeded)
        if self._run is not None:
            for folder in self._folders(self._run):
                publish(folder)
        self._feeds = []
        self._display.close()

    def _open(self, run: RunFolder) -> None:
        for folder in self._folders(run):
            refresh(folder)
        settings = result_settings(self._config)
        shown = {name: hide_credentials(str(value)) for name, value in flatten(settings).items()}
        name = self._config.tracking.name or run.location.rstrip("/").rpartition("/")[2]
        facts = Facts(self._config.tracking.project, name, shown, __version__)
        for kind, make in self._makers.items():
            ledger = Ledger(run.path / "tracking" / f"{kind}.jsonl", hash_json([settings, __version__]))
            self._feeds.append(Feed(make(run.path), ledger, facts, self._display.note))

    def _folders(self, run: RunFolder) -> list[Path]:
        return [folder for folder in (run.path / "tracking", run.path / "tensorboard") if run.location != str(run.path)]
