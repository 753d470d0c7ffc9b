"""raydistill status: which stages of a run are finished, how far the one in work is, and what comes next.

Comes in: a run folder. Goes out: text. Progress within a stage is read from its files: finished networks have a mark,
unfinished ones a checkpoint an epoch.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from raydistill.display import format_seconds
from raydistill.settings.config import Config
from raydistill.stages.roles import list_students, wants_stage
from raydistill.storage.files import read_json
from raydistill.storage.job import is_uri
from raydistill.storage.run_folder import ORIGIN, STAGES, RunFolder, name_folder


def describe_status(location: str) -> str:
    """The lines of `raydistill status`. Raises RunFolderError if it is no run folder."""
    run = RunFolder(location)
    manifest, config, busy = run.read_manifest(), run.read_config(), run.is_locked()
    lines = [f"{run.location}: {manifest['settings']['data']}, {'in use' if busy else 'not running'}"]
    wanted = [name for name in (ORIGIN, *STAGES) if wants_stage(config, name)]
    for name in wanted:
        lines.append(f"  {name:12} {describe_stage(run, config, manifest['stages'].get(name), name)}")
    return "\n".join([*lines, describe_next(run, [name for name in wanted if name not in manifest["stages"]], busy)])


def describe_stage(run: RunFolder, config: Config, record: dict[str, Any] | None, name: str) -> str:
    """One stage in words."""
    if record is not None:
        return f"done in {record['seconds']:.1f} s"
    if not run.has_begun(name):
        return "to do"
    told = describe_progress(run, config, name)
    return f"begun{f', {told}' if told else ''}"


def describe_progress(run: RunFolder, config: Config, name: str) -> str:
    """How far a stage that has begun is, as far as its files tell; else nothing, as in a store: it would be fetched."""
    if is_uri(run.location):
        return ""
    folder = run.stage_folder(name)
    if name == "generalist":
        return _describe_checkpoint(folder)
    total = count_networks(run, config, name)
    if not total:
        return ""
    done = len(list(folder.glob("*/training.json")))
    working = [path.parent for path in folder.glob("*/checkpoint.safetensors")]
    begun = f", {len(working)} more begun" if working else ""
    return f"{done} of {total} networks done{begun}"


def count_networks(run: RunFolder, config: Config, name: str) -> int:
    """Networks that a stage trains, where that is known."""
    if name == "specialists":
        return len(read_json(run.stage_folder("groups") / "groups.json")["groups"])
    if name == "seeds":
        return config.teacher.seeds - 1
    return len(list_students(config)) if name == "student" else 0


def describe_next(run: RunFolder, missing: list[str], busy: bool) -> str:
    """What the user can do now."""
    if busy:
        return f"\nnext:   wait for it; it is at {missing[0] if missing else 'its end'}"
    if missing:
        return (
            f"\nnext:   the command that began it goes on from {missing[0]} (raydistill run … --run-dir {run.location})"
        )
    page = f"{run.location}/{name_folder('report')}/report.html"  # of a store, nothing is fetched for this
    return (
        f"\nreport: {page}\nnext:   raydistill report {run.location}, or raydistill export {run.location} --format pt2"
    )


def _describe_checkpoint(folder: Path) -> str:
    """Passes that the checkpoint of a network in training holds, and its age."""
    from raydistill.storage.files import read_metadata

    path = folder / "checkpoint.safetensors"
    try:
        epoch, written = int(read_metadata(path)["epoch"]), path.stat().st_mtime
    except (OSError, ValueError, KeyError):
        return ""
    return f"{epoch} passes done, the last {format_seconds(max(0.0, time.time() - written))} ago"
