"""Two models of two runs, compared on the test examples that both runs share.

Comes in: run folders with reports, and names of models as in report.json's "models". Goes out: a `Comparison`.
"""

from __future__ import annotations

import numpy as np
import torch

from raydistill.errors import RunFolderError
from raydistill.report.metrics import Comparison, compare_models
from raydistill.report.table import read_report
from raydistill.storage.files import Array, read_array
from raydistill.storage.run_folder import RunFolder


def compare_runs(run_a: RunFolder, model_a: str, run_b: RunFolder, model_b: str) -> Comparison:
    """Compare a model of one run with a model of another by McNemar's exact test; see compare_models.

    Both runs must have the same test examples in the same order, as runs on the same data with the same splits and seed
    have. Raises RunFolderError if their test labels differ, or if a run has no report or no such model.
    """
    predicted_a, labels_a = read_predicted(run_a, model_a)
    predicted_b, labels_b = read_predicted(run_b, model_b)
    if not np.array_equal(labels_a, labels_b):
        raise RunFolderError(
            f"run_dir: {run_a.location!r} and {run_b.location!r} have different test examples (their labels differ);"
            " compare runs of the same data, splits and seed"
        )
    return compare_models(torch.from_numpy(predicted_a == labels_a), torch.from_numpy(predicted_b == labels_b))


def read_predicted(run: RunFolder, model: str) -> tuple[Array, Array]:
    """A model's answers to the test examples and their labels, (N,) class numbers. Raises RunFolderError."""
    models = read_report(run)["models"]
    if model not in models:
        raise RunFolderError(f"run_dir: {run.location!r} has no model {model!r}; give one of {', '.join(models)}")
    folder = run.stage_folder("report")
    return read_array(folder / "predicted.npy")[models.index(model)], read_array(folder / "labels.npy")
