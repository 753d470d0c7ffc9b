"""Predictions for a file of examples, by the student or its teacher."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from raydistill.data.arrays import open_examples
from raydistill.errors import DataError
from raydistill.files import Array, write_aside
from raydistill.loading import load_student, load_teacher
from raydistill.run_folder import RunFolder
from raydistill.scoring import predict_logits

SHOWN = 5


def predict_file(run_dir: Path | str, source: Path, output: Path | None = None, model: str = "student") -> str:
    """Write class numbers, class names and probabilities for the examples of `source`; returns what to tell the user.

    The output is a .npz with class_index (N,), class_name (N,), probability (N, K). Raises DataError for a bad input.
    """
    run = RunFolder(run_dir)
    run.read_manifest()
    examples = open_examples(run)
    x = read_input(source, examples.input_shape)
    if model == "teacher":
        log_probs = load_teacher(run_dir)(torch.from_numpy(x))
    else:
        log_probs = predict_logits(load_student(run_dir), torch.from_numpy(x)).log_softmax(dim=1)
    probability = log_probs.exp().numpy().astype(np.float32)
    index = probability.argmax(axis=1)
    names = np.array(examples.class_names)[index]
    target = output or source.with_suffix(".predicted.npz")
    with write_aside(target) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, class_index=index, class_name=names, probability=probability)
    shown = [f"  {row}: {names[row]} ({probability[row].max():.1%})" for row in range(min(SHOWN, len(x)))]
    return "\n".join([f"{len(x):,} predictions of the {model} in {target}", *shown])


def read_input(path: Path, input_shape: tuple[int, ...]) -> Array:
    """Array x (or x_test, or the only one) of a .npz file. Raises DataError if it does not fit the training data."""
    try:
        with np.load(path, allow_pickle=False) as file:
            name = next((name for name in ("x", "x_test", *file.files) if name in file.files), None)
            x = np.asarray(file[name]) if name else np.empty(0)
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"input: {str(path)!r} is not a readable .npz file ({error})") from None
    if x.shape[1:] != input_shape or len(x) == 0:
        raise DataError(
            f"input: {str(path)!r} holds shape {x.shape}; give (examples, {', '.join(map(str, input_shape))})"
        )
    if x.dtype.kind not in "iuf" or (x.dtype.kind == "f" and not np.isfinite(x).all()):
        raise DataError(f"input: {str(path)!r} must hold finite numbers, not type {x.dtype} with NaN or infinity")
    return x.astype(np.float32) if x.dtype.kind == "f" or (x.dtype.kind == "u" and x.dtype.itemsize > 1) else x
