"""What a network is: its name and options, how examples enter it, and the weights that it starts from.

Comes in: settings of a generalist or a student. Goes out: an `Architecture`, and where the files that decide its
weights lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.errors import ModelError
from raydistill.settings.config import Config
from raydistill.storage.files import hash_file


@dataclass(frozen=True)
class Architecture:
    """What a network is. role: the section of its settings; given: the file that it is taken from, untrained."""

    role: str
    model: str
    options: dict[str, Any]
    input_size: tuple[int, ...] | None = None
    normalise: str = "auto"
    weights: str | None = None
    given: str | None = None


def generalist_architecture(config: Config) -> Architecture:
    """The generalist's, and so its specialists'."""
    own = config.generalist
    return Architecture(
        "generalist", own.model, own.options, own.input_size, own.normalise, own.weights, own.checkpoint
    )


def student_architecture(config: Config) -> Architecture:
    """The student's: without a model of its own, the generalist's, but for what it says itself."""
    own, other = config.student, config.generalist
    if own.model is not None:
        return Architecture("student", own.model, own.options, own.input_size, own.normalise, own.weights)
    return Architecture(
        "student",
        other.model,
        own.options or other.options,
        own.input_size or other.input_size,
        other.normalise if own.normalise == "auto" else own.normalise,
        own.weights or (None if own.options else other.weights),
    )


def check_files(config: Config) -> None:
    """Raise ModelError if a file that the settings name is not there; before data are prepared for it."""
    for architecture in (generalist_architecture(config), student_architecture(config)):
        for name, path in list_files_of(architecture).items():
            if not path.is_file():
                raise ModelError(f"{name}: {str(path)!r} is no file; give a file of weights that every node sees")


def identify_architecture(architecture: Architecture) -> list[Any]:
    """What of it decides a stage's results: its settings, and checksums of the files that it is made of.

    Raises ModelError if there is no such file.
    """
    settings = {name: value for name, value in vars(architecture).items() if name != "role"}
    return [settings, identify_files(list_files_of(architecture))]


def list_files_of(architecture: Architecture) -> dict[str, Path]:
    """Files outside the run that decide the network: its weights, and those of a folder that hf: names."""
    files = {}
    for name, path in (("weights", architecture.weights), ("checkpoint", architecture.given)):
        if path is not None:
            files[f"{architecture.role}.{name}"] = Path(path).expanduser()
    library, _, name = architecture.model.partition(":")
    folder = find_folder(name)
    if library == "hf" and folder is not None:
        found = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
        files |= {file.name: file for file in found}
    return files


def find_folder(name: str) -> Path | None:
    """The folder that hf: names, with a slash in it, so that ./vit is one and vit a type; None for other names."""
    folder = Path(name).expanduser()
    return folder if "/" in name and folder.is_dir() else None


def identify_files(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each. Raises ModelError for one that cannot be read; files: by the setting that names each."""
    sums = {}
    for name, path in files.items():
        try:
            sums[name] = hash_file(path)
        except OSError as error:
            raise ModelError(
                f"{name}: {str(path)!r} cannot be read ({error.strerror}); give a file of weights that every node sees"
            ) from None
    return sums
