"""A finished model with all that is needed to ask it: of a run, or of an exported folder.

Comes in: a folder, and which model. Goes out: an `Answerer`, whose examples are checked and turned into its type first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raydistill.data.arrays import open_examples
from raydistill.data.new_images import NewImages, find_new_images
from raydistill.deployment.exported import is_exported, load_exported
from raydistill.deployment.loading import load_student, load_teacher
from raydistill.errors import ConfigError, DataError
from raydistill.storage.files import Array
from raydistill.storage.job import is_uri
from raydistill.storage.run_folder import RunFolder
from raydistill.training.scoring import predict_logits

MODELS = ("student", "teacher", "ensemble")  # ensemble is another word for the teacher


@dataclass(frozen=True)
class Answerer:
    """A model that can be asked.

    ask: batch (N, ...) in the stored type -> log-probabilities (N, K). input_shape, dtype: of one example. images: how
    image files become examples, None where examples are no images; or why nobody knows how.
    """

    model: str
    ask: Callable[[Tensor], Tensor]
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    dtype: str
    images: NewImages | str | None

    def answer(self, x: Array) -> Array:
        """Log-probabilities (N, K) float32 of examples in the stored type."""
        return self.ask(torch.from_numpy(np.ascontiguousarray(x))).float().numpy()

    def take_images(self) -> NewImages:
        """How image files become examples. Raises DataError where they do not."""
        if isinstance(self.images, NewImages):
            return self.images
        shape = ", ".join(map(str, self.input_shape))
        raise DataError(self.images or f"input: this model takes no images, but arrays of shape ({shape})")


def open_answerer(location: Path | str, model: str = "student") -> Answerer:
    """Open the student or the teacher of a run, or an exported student.

    Raises ConfigError for a model that there is not, RunFolderError for a run that is not finished.
    """
    if model not in MODELS:
        raise ConfigError(f"model: {model!r} is not allowed; give one of {', '.join(MODELS)}")
    if not is_uri(location) and is_exported(location):
        return _open_exported(location, model)
    run = RunFolder(location)
    run.read_manifest()
    examples = open_examples(run)
    if model == "student":
        student = load_student(location)
        ask: Callable[[Tensor], Tensor] = lambda batch: predict_logits(student, batch).log_softmax(dim=1)  # noqa: E731
    else:
        ask = load_teacher(location)
    images: NewImages | str | None
    try:
        images = find_new_images(run, examples)
    except DataError as error:
        images = str(error)
    dtype = str(examples.x.dtype).removeprefix("torch.")
    return Answerer(model, ask, examples.class_names, examples.input_shape, dtype, images)


def _open_exported(location: Path | str, model: str) -> Answerer:
    if model != "student":
        raise ConfigError(f"model: {model!r} is not in an exported folder, which holds the student; give the run's")
    exported = load_exported(location)

    def ask(batch: Tensor) -> Tensor:
        return predict_logits(exported.model, batch).log_softmax(dim=1)

    return Answerer(model, ask, exported.class_names, exported.input_shape, exported.dtype, exported.images)


def convert_rows(x: Array, dtype: str) -> tuple[Array, dict[int, str]]:
    """Examples (N, ...) in the stored type, with zeros where one cannot be; and why not, by row.

    Floats become float32 where the stored type is one; an integer type takes whole numbers in its range.
    """
    kind = np.dtype(dtype)
    if kind.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            converted = x.astype(kind)
        good = np.isfinite(converted)
        reason = "has NaN, infinity, or a number beyond the range of float32"
    else:
        limits = np.iinfo(kind)
        good = (x >= limits.min) & (x <= limits.max)  # false for NaN
        good &= np.floor(x) == x if x.dtype.kind == "f" else True
        converted = np.where(good, x, 0).astype(kind)
        reason = f"has NaN, or a number that is no whole one from {limits.min} to {limits.max}, as {dtype} needs"
    bad = np.flatnonzero(~good.reshape(len(x), -1).all(axis=1))
    converted[bad] = 0
    return converted, {int(row): reason for row in bad}
