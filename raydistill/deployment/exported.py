"""The student as a folder of its own: weights and a description, which need neither the run nor Ray.

    student.safetensors    all parameters and buffers
    config.json            model, options, classes, shape and type of an example, normalisation, how images are decoded
    README.md              the model card (model_card.py)

Comes in: a run, or such a folder. Goes out: the description, or an `Exported`, which answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raydistill.data.arrays import Examples, Normalisation, read_normalisation
from raydistill.data.new_images import NewImages, find_new_images, read_new_images
from raydistill.errors import DataError, ModelError, describe_in_line
from raydistill.networks.architecture import student_architecture
from raydistill.networks.models import build_model, count_parameters
from raydistill.settings.config import Config
from raydistill.storage.boundary import stays_inside
from raydistill.storage.files import hash_file, read_json, read_tensors
from raydistill.storage.run_folder import RunFolder
from raydistill.version import __version__

FORMAT = 1
CONFIG = "config.json"
NOT_OPTIONS = ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id")
"""Of a configuration of transformers, what follows from the type and the classes."""


@dataclass(frozen=True)
class Exported:
    """A student. Call it with a batch (N, ...) in the stored type for logits (N, K).

    model: the same as a torch module, in evaluation mode. input_shape, dtype: of one example. images: how image files
    become examples, or None.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    dtype: str
    images: NewImages | None

    def __call__(self, batch: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.model(batch)  # type: ignore[no-any-return]


def describe_student(run: RunFolder, config: Config, examples: Examples, student: nn.Module) -> dict[str, Any]:
    """What config.json holds but the weights' checksum."""
    architecture = student_architecture(config)
    model, options = describe_network(architecture.model, architecture.options, student)
    return {
        "raydistill_student": FORMAT,
        "raydistill": __version__,
        "model": model,
        "options": options,
        "input_size": architecture.input_size and list(architecture.input_size),
        "normalise": architecture.normalise,
        "filled": (architecture.given or architecture.weights) is not None,
        "input_shape": list(examples.input_shape),
        "dtype": str(examples.x.dtype).removeprefix("torch."),
        "classes": list(examples.class_names),
        "normalisation": vars(read_normalisation(run.stage_folder("splits"))),
        "images": _describe_images(run, examples),
        "parameters": count_parameters(student),
    }


def describe_network(model: str, options: dict[str, Any], student: nn.Module) -> tuple[str, dict[str, Any]]:
    """Name and options that build the network anywhere: those of transformers by their type and configuration."""
    if not model.startswith("hf:"):
        return model, options
    config: Any = student.get_submodule("network.model").config
    own = {name: value for name, value in config.to_diff_dict().items() if name not in NOT_OPTIONS}
    return f"hf:{config.model_type}", json.loads(json.dumps(own))


def _describe_images(run: RunFolder, examples: Examples) -> dict[str, Any] | None:
    try:
        images = find_new_images(run, examples)
    except DataError:  # nobody knows what pixels of a file are there
        return None
    return None if images is None else images.to_json()


def is_exported(location: Path | str) -> bool:
    """Whether it is a folder with a config.json of ours."""
    try:
        return "raydistill_student" in read_json(Path(location).expanduser() / CONFIG)
    except (OSError, ValueError, TypeError):
        return False


def load_exported(folder: Path | str) -> Exported:
    """The student of a folder that `raydistill export DIR --format safetensors` wrote, on the CPU.

    Raises DataError where the folder is not one, or has been damaged, and ModelError where its model cannot be built.
    """
    path = Path(folder).expanduser()
    try:
        described = read_json(path / CONFIG)
        if described["raydistill_student"] != FORMAT or not stays_inside(described["weights"]):
            raise ValueError("another format")
        weights = path / described["weights"]
        same = hash_file(weights) == described["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = error.strerror if isinstance(error, OSError) else describe_in_line(error)
        raise DataError(
            f"export: {str(path)!r} holds no exported student ({told}); give a folder that raydistill export DIR"
            " --format safetensors wrote"
        ) from None
    if not same:
        raise DataError(f"export: {str(weights)!r} has changed since it was written; export it again")
    return build_exported(described, weights)


def build_exported(described: dict[str, Any], weights: Path) -> Exported:
    """The student that a config.json describes, with these weights. Raises DataError or ModelError."""
    try:
        shape, names = tuple(map(int, described["input_shape"])), tuple(map(str, described["classes"]))
        model = build_model(
            described["model"],
            described["options"],
            input_shape=shape,
            classes=len(names),
            normalisation=Normalisation(**described["normalisation"]),
            seed=0,
            dtype=getattr(torch, str(described["dtype"])),
            input_size=described["input_size"],
            normalise=described["normalise"],
            filled=described["filled"],
            start=False,
            field="export",
        )
        model.load_state_dict(read_tensors(weights)[0])
        return Exported(model.eval(), names, shape, str(described["dtype"]), read_new_images(described["images"]))
    except ModelError:
        raise
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
        json.JSONDecodeError,
    ) as error:
        raise DataError(
            f"export: {str(weights.parent)!r} cannot be read ({describe_in_line(error)[:300]}); export it again"
        ) from None
