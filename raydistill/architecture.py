"""Settings of a network beside its name and options: how examples enter it, and the weights that it starts from.

Comes in: settings of a generalist or a student. Goes out: an `Architecture`, all that says what a network is, and
where the files that decide its weights lie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from raydistill.errors import ModelError
from raydistill.sections import Section

if TYPE_CHECKING:
    from raydistill.config import Config

NORMALISATIONS = ("auto", "data", "model", "unit", "none")
_NUMBERS = r"[\d.eE+-]+(?:,[\d.eE+-]+)*"
_STATISTICS = re.compile(rf"({_NUMBERS})/({_NUMBERS})")


class ArchitectureConfig(Section):
    """How examples enter a network, and the weights that it starts from."""

    input_size: tuple[int, ...] | None = Field(None)
    """height and width, or one number for both, to which the network resizes images as its first layer (bilinear,
    antialiased); left out: it takes them as they are"""
    normalise: str = "auto"
    """data: by mean and standard deviation of the training rows; model: as the model's pretrained weights want it, for
    each channel; unit: integers divided by 255; none: numbers as they are; MEAN/STD, such as 0.5/0.25 or
    0.49,0.46,0.41/0.23,0.22,0.23, after integers are divided by 255; auto: model where weights come from elsewhere and
    the model says so, else data"""
    weights: str | None = None
    """a file of weights to start from: .safetensors, or a state dict written by torch.save; an output layer for other
    classes is left out, and said so"""

    @field_validator("input_size", mode="before")
    @classmethod
    def _take_one_number(cls, value: Any) -> Any:
        parts = list(value) if isinstance(value, list | tuple) else value
        if isinstance(parts, str):
            parts = parts.split(",")
        if isinstance(parts, int):
            parts = [parts]
        return tuple(parts) * 2 if isinstance(parts, list) and len(parts) == 1 else parts

    @field_validator("input_size")
    @classmethod
    def _check_size(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(value) != 2 or min(value) < 1):
            raise ValueError("give a number of pixels, or two: HEIGHT,WIDTH")
        return value

    @field_validator("normalise")
    @classmethod
    def _check_normalise(cls, value: str) -> str:
        if value not in NORMALISATIONS:
            try:
                read_statistics(value)
            except ValueError:
                raise ValueError(
                    f"give one of {', '.join(NORMALISATIONS)}, or MEAN/STD such as 0.5/0.25, with STD above 0"
                ) from None
        return value


def read_statistics(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, of one or of each channel, from MEAN/STD. Raises ValueError if it is not that."""
    found = _STATISTICS.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ValueError(text)
    mean, std = (tuple(float(number) for number in part.split(",")) for part in found.groups())
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError(text)
    return mean, std


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
    from raydistill.files import hash_file

    sums = {}
    for name, path in files.items():
        try:
            sums[name] = hash_file(path)
        except OSError as error:
            raise ModelError(
                f"{name}: {str(path)!r} cannot be read ({error.strerror}); give a file of weights that every node sees"
            ) from None
    return sums
