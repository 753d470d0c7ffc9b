"""TensorBoard: event files, a folder for each network, so that their curves lie over each other.

    tensorboard/generalist, specialists/000 …, seeds/001 …, trials/000 …, student, labels_only …, report

A network's steps are its passes. A run that goes on writes further files into the same folders.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.tracking.points import Facts, Point, TrialEnd

MOST_OPEN = 64  # files at once: a run may have a thousand specialists
ACCURACY = "valid_accuracy"


class TensorBoard:
    """Writes event files by tensorboardX, without its threads."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: OrderedDict[str, Any] = OrderedDict()

    def open(self, facts: Facts, known: str | None) -> str:
        """See `Tracker`. Files of a run of other settings are removed."""
        if known is None or not self._folder.exists():
            self.end_stage()
            shutil.rmtree(self._folder, ignore_errors=True)
            table = "\n".join(f"| {name} | {value} |" for name, value in facts.settings.items())
            self._write("report", self._text("settings", f"| setting | value |\n|---|---|\n{table}"), 0)
        return str(self._folder.name)

    def log(self, network: str, points: list[Point]) -> None:
        """See `Tracker`."""
        from tensorboardX.summary import scalar

        for point in points:
            for name, value in point.values.items():
                self._write(network, scalar(name, value), point.epoch, flush=False)
        self._writers[network].flush()

    def end_trial(self, trial: TrialEnd) -> None:
        """See `Tracker`: a row of the hparams table."""
        from tensorboardX.summary import hparams

        for part in hparams(trial.parameters, {ACCURACY: trial.accuracy}):
            self._write(trial.network, part, 0)

    def log_figures(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """See `Tracker`: one point a figure, in the folder of its network."""
        from tensorboardX.summary import scalar

        for model, values in figures.items():
            for name, value in values.items():
                part, _, rest = name.partition("_")
                self._write(model, scalar(f"{part}/{rest}" if rest else name, value), 0)

    def attach(self, page: Path, verdict: str) -> None:
        """See `Tracker`: the verdict, and where the page is."""
        self._write("report", self._text("verdict", f"{verdict}\n\nPage: `{page}`"), 0)

    def end_stage(self) -> None:
        """See `Tracker`."""
        while self._writers:
            self._writers.popitem()[1].close()

    def close(self, succeeded: bool) -> None:
        """See `Tracker`."""
        self.end_stage()

    def _text(self, tag: str, text: str) -> Any:
        from tensorboardX.summary import text as make_text

        return make_text(tag, text)

    def _write(self, network: str, summary: Any, step: int, flush: bool = True) -> None:
        from tensorboardX.proto.event_pb2 import Event

        writer = self._find_writer(network)
        writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        if flush:
            writer.flush()

    def _find_writer(self, network: str) -> Any:
        from tensorboardX.event_file_writer import EventsWriter

        writer = self._writers.pop(network, None)
        if writer is None:
            if len(self._writers) >= MOST_OPEN:
                self._writers.popitem(last=False)[1].close()
            folder = self._folder / network
            folder.mkdir(parents=True, exist_ok=True)
            writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}.{os.getpid()}")  # read in order of names
        self._writers[network] = writer
        return writer
