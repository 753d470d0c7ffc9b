"""What is tracked: points of networks' histories, figures of stages, read from events and from the run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from raydistill.execution.jobs import JobEvent
from raydistill.settings.config import Config
from raydistill.storage.files import read_json
from raydistill.storage.run_folder import RunFolder

NAMES = {"loss": "loss", "valid_loss": "valid_loss", "value": "valid_accuracy", "learning_rate": "learning_rate"}
"""Numbers of a history's record, and what they are called where they are tracked."""
FOLDERS = {"specialist": "specialists", "trial": "trials"}
MODEL_FIGURES = ("test_accuracy", "test_top5", "test_nll", "test_calibration_error", "parameters")


@dataclass(frozen=True)
class Point:
    """A network after a pass, counted from 1. values: by their tracked names."""

    epoch: int
    values: dict[str, float]


@dataclass(frozen=True)
class TrialEnd:
    """A finished trial: its parameters, and the accuracy that it ended with."""

    network: str
    parameters: dict[str, float]
    accuracy: float


@dataclass(frozen=True)
class StageNews:
    """All that a finished stage has to tell.

    histories: by network; trials: of a search; figures: by model, by name; page: the report; verdict: in plain words.
    """

    stage: str
    key: str
    histories: dict[str, list[Point]]
    trials: tuple[TrialEnd, ...] = ()
    figures: dict[str, dict[str, float]] | None = None
    page: Path | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Facts:
    """What a run is called and made of. settings: dotted names and values, free of credentials."""

    project: str
    name: str
    settings: dict[str, Any]
    version: str


class Tracker(Protocol):
    """Somewhere to show a run. Any method may raise anything: the run goes on without this tracker."""

    name: str

    def open(self, facts: Facts, known: str | None) -> str:
        """Go on with the run that is known there, or begin a new one. Returns what it is known by."""

    def log(self, network: str, points: list[Point]) -> None:
        """Points that follow each other."""

    def end_trial(self, trial: TrialEnd) -> None:
        """A trial of the search has ended."""

    def log_figures(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Figures of models, by model and name."""

    def attach(self, page: Path, verdict: str) -> None:
        """The report."""

    def end_stage(self) -> None:
        """Nothing more of this stage's networks will come."""

    def close(self, succeeded: bool) -> None:
        """The command ends."""


def name_network(job: str) -> str:
    """A job's name as a path: 'specialist 003' is specialists/003, 'generalist 001' seeds/001."""
    kind, _, number = job.partition(" ")
    return f"{FOLDERS.get(kind, 'seeds')}/{number}" if number else kind


def read_event(event: JobEvent) -> list[Point]:
    """Points that an event tells of, in order: the last passes of a training, or the last one of a trial."""
    recent = event.progress.get("recent")
    records = recent if isinstance(recent, list) else [event.progress]
    return [to_point(record) for record in records if "value" in record and record.get("epoch")]


def to_point(record: Mapping[str, Any]) -> Point:
    """A record of a history as a point."""
    values = {shown: float(record[name]) for name, shown in NAMES.items() if record.get(name) is not None}
    return Point(int(record["epoch"]), values)


def read_stage(run: RunFolder, config: Config, stage: str, key: str) -> StageNews:
    """What a finished stage has left in the run folder."""
    if stage == "search":
        return _read_search(run, key)
    if stage == "ensemble":
        found = read_json(run.stage_folder(stage) / "ensemble.json")
        figures = {
            name: {f"tune_{part}": float(value) for part, value in score.items()}
            for name, score in found.items()
            if isinstance(score, dict)
        }
        return StageNews(stage, key, {}, figures=figures)
    if stage == "report":
        return _read_report(run, key)
    from raydistill.stages.networks import read_training

    histories = {
        network: list(map(to_point, read_training(folder)["history"]))
        for network, folder in _list_networks(run, config, stage)
    }
    return StageNews(stage, key, histories)


def _list_networks(run: RunFolder, config: Config, stage: str) -> Iterator[tuple[str, Path]]:
    from raydistill.stages.groups import list_trained
    from raydistill.stages.roles import list_students

    if stage == "generalist":
        yield stage, run.stage_folder(stage)
    elif stage == "specialists":
        yield from ((f"specialists/{index:03d}", run.specialist_folder(index)) for index in list_trained(run))
    elif stage == "seeds":
        yield from ((f"seeds/{index:03d}", run.seed_folder(index)) for index in range(1, config.teacher.seeds))
    elif stage == "student":
        yield from ((name, run.student_folder(name)) for name in list_students(config))


def _read_search(run: RunFolder, key: str) -> StageNews:
    histories, ends = {}, []
    for index, trial in enumerate(read_json(run.stage_folder("search") / "search.json")["trials"]):
        network = f"trials/{index:03d}"
        histories[network] = [
            Point(epoch, {NAMES["value"]: float(value)}) for epoch, value in enumerate(trial["values"], start=1)
        ]
        pair = {name: float(trial[name]) for name in ("temperature", "label_weight")}
        if trial["values"]:
            ends.append(TrialEnd(network, pair, float(trial["values"][-1])))
    return StageNews("search", key, histories, tuple(ends))


def _read_report(run: RunFolder, key: str) -> StageNews:
    folder = run.stage_folder("report")
    numbers = read_json(folder / "report.json")
    models = {**numbers, **numbers["controls"]}
    figures = {
        name: {figure: float(models[name][figure]) for figure in MODEL_FIGURES if models[name].get(figure) is not None}
        for name in numbers["models"]
    }
    return StageNews("report", key, {}, (), figures, folder / "report.html", " ".join(numbers["verdict"]["sentences"]))
