"""--dry-run: everything that can be checked without training, and what the command would do.

Comes in: settings. Goes out: a `Forecast`: which stages would run and why, which networks they train, what stands in
the way. Nothing is written to the run folder: data and splits are made beside it, as a run makes them, and removed; a
run folder that has them lends them by links.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raydistill.commands.estimate import NetworkForecast, estimate_networks
from raydistill.data.arrays import open_examples, read_split
from raydistill.data.sources import check_source
from raydistill.data.splits import SPLITS
from raydistill.display import Display, Silent
from raydistill.doctor.folder import check_storage, find_parent
from raydistill.errors import ConfigError, RunFolderError, StorageError
from raydistill.execution.in_process import InProcess
from raydistill.pipeline import list_stages, run_pipeline, to_json
from raydistill.settings.config import Config
from raydistill.stages.context import Context, Stage
from raydistill.storage.job import is_uri
from raydistill.storage.manifest import list_changes, make_key, result_settings
from raydistill.storage.run_folder import RunFolder
from raydistill.version import __version__

CHECKED = "splits"  # the last stage that is done for real: after it, models, groups, views and targets are checked


@dataclass(frozen=True)
class StageForecast:
    """What would become of a stage. reason: why it would run, or that it would not."""

    name: str
    runs: bool
    reason: str


@dataclass
class Forecast:
    """facts: of the data and the machine, by name. stages: in order. obstacles: what a real run would refuse."""

    facts: dict[str, str] = field(default_factory=dict)
    stages: list[StageForecast] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)
    networks: list[NetworkForecast] = field(default_factory=list)


def forecast_run(
    config: Config,
    *,
    display: Display,
    on_change: str = "refuse",
    start_from: str | None = None,
    until: str = "report",
    verbose: bool = False,
) -> Forecast:
    """Check everything, and say what would be done. Raises RaydistillError at what makes all of it impossible."""
    check_source(config.data)
    forecast, stages, run = Forecast(), list_stages(config, until), RunFolder(config.run_dir)
    forecast.facts["storage"] = check_folder(config)
    forecast.obstacles += list_obstacles(run, config, on_change)
    source = find_source(run, start_from)
    with make_draft(config, run, source, display) as draft:
        forecast.facts |= describe_draft(draft)
        forecast.facts["cluster"] = check_cluster(config, draft, verbose)
        forecast.stages = [*walk_stages(config, stages, run, source, draft)]
        running = {stage.name for stage in forecast.stages if stage.runs}
        forecast.networks = estimate_networks(draft, config, running, run)
    return forecast


def find_source(run: RunFolder, start_from: str | None) -> RunFolder | None:
    """The run that a new one would start from. Raises RunFolderError if it cannot."""
    if has_manifest(run):
        named = run.read_manifest().get("start_from")
        return RunFolder(named) if named and has_manifest(RunFolder(named)) else None
    if start_from is None:
        return None
    source = RunFolder(start_from)
    source.check_source()
    return source


def has_manifest(run: RunFolder) -> bool:
    """Whether it is a run folder already."""
    try:
        run.read_manifest()
    except RunFolderError as error:
        if "is not a run folder" in str(error):
            return False
        raise
    return True


@contextmanager
def make_draft(config: Config, run: RunFolder, source: RunFolder | None, display: Display) -> Iterator[RunFolder]:
    """A run folder of its own beside the real one, with data and splits, which is removed again."""
    parent = None if is_uri(config.run_dir) else find_parent(run.path.parent)
    lender = run if has_manifest(run) and run.read_manifest()["version"] == __version__ else source
    with tempfile.TemporaryDirectory(prefix=".dry-run-", dir=parent) as place:
        yield run_pipeline(
            config.model_copy(update={"run_dir": str(Path(place) / "run")}),
            display=display,
            start_executor=lambda draft: InProcess(),
            until=CHECKED,
            start_from=None if lender is None else lender.location,
        )


def describe_draft(draft: RunFolder) -> dict[str, str]:
    """What the data are."""
    examples = open_examples(draft)
    sizes = ", ".join(f"{name} {len(read_split(draft, name)):,}" for name in SPLITS)
    shape = "x".join(map(str, examples.input_shape))
    return {
        "data": f"{len(examples.y):,} examples of {shape} {str(examples.x.dtype).removeprefix('torch.')},"
        f" {examples.classes:,} classes",
        "splits": sizes,
    }


def check_folder(config: Config) -> str:
    """What doctor says of the storage, tried beside a run folder that is there. Raises StorageError where it fails."""
    place = config.run_dir
    if not is_uri(place) and (path := RunFolder(place).path).is_dir():
        if not os.access(path, os.W_OK):
            raise StorageError(f"run_dir: {place!r} is not writable by this user; change its permissions")
        place = str(path.parent)
    findings = check_storage(place)
    for finding in findings:
        if finding.status == "fail":
            raise StorageError(f"run_dir: {finding.text}; {finding.remedy}")
    return "; ".join(finding.text for finding in findings)


def check_cluster(config: Config, draft: RunFolder, verbose: bool) -> str:
    """Join the cluster, and hold the needs of jobs against its nodes. Raises ConfigError as a run would.

    Nodes that an autoscaler may bring are not waited for.
    """
    from raydistill.commands.launch import open_executor

    waited: list[str] = []
    try:
        open_executor(config, draft, verbose, waited.append, node_seconds=0.0).close()
    except ConfigError as error:
        if not waited:
            raise
        return f"not there yet, and a run would wait for it up to 10 minutes: {error}"
    if config.cluster.backend == "none":
        return "none: everything in one process"
    return "reached, and holds what jobs need" if joins_cluster(config) else "a private Ray on this machine"


def joins_cluster(config: Config) -> bool:
    """Whether a run would join a cluster."""
    from raydistill.on_ray.session import finds_cluster

    return finds_cluster(config.cluster.address)


def list_obstacles(run: RunFolder, config: Config, on_change: str) -> list[str]:
    """Why a real run would refuse this folder."""
    if not has_manifest(run):
        run.check_unused()
        return []
    obstacles = [f"run_dir: {run.location!r} is in use; wait for it, or take another"] if run.is_locked() else []
    refused = run.describe_refusal(config)
    return obstacles + ([refused] if refused and on_change == "refuse" else [])


def walk_stages(
    config: Config, stages: list[Stage], run: RunFolder, source: RunFolder | None, draft: RunFolder
) -> Iterator[StageForecast]:
    """What would become of each stage, as far as files tell: what hangs on a stage that runs is taken to run, too."""
    records = run.read_manifest()["stages"] if has_manifest(run) else {}
    standing = Standing(config, run, source, draft, records)
    for stage in stages:
        inputs = [name for name in stage.inputs if name in {other.name for other in stages}]
        yield standing.judge(stage, inputs)


class Standing:
    """Which stages stand. The keys of those whose inputs stand are known; the draft has those of data and splits."""

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        source: RunFolder | None,
        draft: RunFolder,
        records: Mapping[str, Any],
    ) -> None:
        self._config, self._run, self._source, self._records = config, run, source, records
        self._files = {name: record["files"] for name, record in draft.read_manifest()["stages"].items()}
        self._redone: list[str] = []
        self._draft = draft
        self._changes = find_changes(run, config) if records else {}

    def judge(self, stage: Stage, inputs: list[str]) -> StageForecast:
        """One stage, after all its inputs were judged."""
        moved = [name for name in inputs if name in self._redone and name not in self._files]
        if moved:
            self._redone.append(stage.name)
            return StageForecast(stage.name, True, f"follows from {moved[0]}")
        key = make_key(stage.name, to_json(stage.settings(self._config)), {name: self._files[name] for name in inputs})
        for holder, told in ((self._run, "finished before"), (self._source, "taken over")):
            if holder is not None and has_manifest(holder) and holder.is_finished(stage.name, key):
                if not stage.stands(Context(holder, self._config, Silent(), InProcess)):
                    break
                self._files[stage.name] = holder.read_manifest()["stages"][stage.name]["files"]
                return StageForecast(
                    stage.name, False, told if holder is self._run else f"{told} from {holder.location}"
                )
        self._redone.append(stage.name)
        return StageForecast(stage.name, True, self._explain(stage, key))

    def _explain(self, stage: Stage, key: str) -> str:
        """Why a stage whose inputs are known runs."""
        record = self._records.get(stage.name)
        if record is None:
            return "goes on from where it was" if self._run.has_begun(stage.name) else "not there yet"
        if record["key"] == key:
            return (
                "what failed is tried again" if self._run.is_finished(stage.name, key) else "a file is damaged or gone"
            )
        names = [name for name, reaches in self._changes.items() if reaches(stage)]
        if names:
            return f"changed: {'; '.join(names[:3])}{'; …' if len(names) > 3 else ''}"
        if self._run.read_manifest()["version"] != __version__:
            return f"changed: version {self._run.read_manifest()['version']} -> {__version__}"
        moved = [name for name in stage.inputs if name in self._redone]
        return f"other files from {moved[0]}" if moved else "changed: the files of the data"


def find_changes(run: RunFolder, config: Config) -> dict[str, Any]:
    """Each changed setting, 'search.trials 8 -> 16', with a function that tells whether it reaches a stage."""
    old = run.read_manifest()["settings"]
    changes = list_changes(old, result_settings(config))
    return {change: _reach(old, change.split()[0], config) for change in changes}


def _reach(old: Mapping[str, Any], name: str, config: Config) -> Any:
    """A function that tells whether one setting, moved from its old value to the new one, reaches a stage."""
    new: Any = config.model_dump(mode="json")
    *sections, last = name.split(".")
    try:
        before = Config.model_validate({**old, "run_dir": config.run_dir})
        moved: Any = before.model_dump(mode="json")
        place, value = moved, new
        for section in sections:
            place, value = place[section], value[section]
        place[last] = value[last]
        after = Config.model_validate(moved)
    except (ValidationError, KeyError, TypeError):  # settings of another version, or that hold only together
        return lambda stage: False

    def reaches(stage: Stage) -> bool:
        try:
            return bool(to_json(stage.settings(before)) != to_json(stage.settings(after)))
        except OSError:  # the old source has gone
            return stage.name == "data"

    return reaches
