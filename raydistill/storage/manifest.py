"""The manifest of a run: the settings that it was made with, and for each finished stage its key and its files.

Comes in: a configuration, or a manifest's file. Goes out: a manifest that has been checked, what differs between the
two, and the keys of stages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.errors import RunFolderError
from raydistill.settings.config import Config
from raydistill.storage.boundary import check_names
from raydistill.storage.files import hash_json, read_json
from raydistill.version import __version__

FORMAT = 1
_NOT_RESULTS = ("run_dir", "cluster", "tracking")  # settings that change where, how fast and who watches, not what


def new_manifest(settings: Mapping[str, Any], start_from: str | None) -> dict[str, Any]:
    """That of a run which has done nothing yet. start_from: location of the run that it starts from."""
    start = {} if start_from is None else {"start_from": start_from}
    return {"raydistill_format": FORMAT, "version": __version__, "settings": settings, **start, "stages": {}}


def load_manifest(path: Path, location: str) -> dict[str, Any]:
    """Read a manifest. location: of the run, for errors. Raises RunFolderError if there is none, or it is not ours."""
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise RunFolderError(f"run_dir: {location!r} is not a run folder (no manifest.json)") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise RunFolderError(f"run_dir: {str(path)!r} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("raydistill_format") != FORMAT:
        raise RunFolderError(f"run_dir: {str(path)!r} was not written by this raydistill")
    check_names(path, manifest["stages"])
    return manifest


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that decide results, as JSON."""
    settings = config.model_dump(mode="json")
    del settings["specialists"]["on_failure"]  # what is finished stands either way
    del settings["images"]["max_corrupt"]
    return {name: value for name, value in settings.items() if name not in _NOT_RESULTS}


def compare_manifest(manifest: Mapping[str, Any], config: Config) -> list[str]:
    """What a run of this configuration, by this version, would change, such as 'search.trials 8 -> 16'."""
    changes = list_changes(manifest["settings"], result_settings(config))
    if manifest["version"] != __version__:
        changes.insert(0, f"version {manifest['version']} -> {__version__}")
    return changes


def list_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Differences between two nested settings, such as 'search.trials 8 -> 16'."""
    changes: list[str] = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict) and name != "options":
            changes += list_changes(before, after, f"{prefix}{name}.")
        elif before != after:
            changes.append(f"{prefix}{name} {before} -> {after}")
    return changes


def make_key(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> str:
    """A stage's key. inputs: for each stage that it reads, the checksums of its files."""
    return hash_json({"stage": stage, "version": __version__, "settings": settings, "inputs": inputs})
