"""Bias repair of students: which classes the transfer set hardly has, and new biases for these, fitted on tune rows.

Comes in: a trained student, and how many examples of each class it has learned from. Goes out: the student with these
biases, and repair.json, which tells them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from raydistill.data.arrays import Examples, read_split, read_transfer_rows
from raydistill.settings.config import Config
from raydistill.storage.files import read_array, write_json
from raydistill.storage.folders import remove
from raydistill.storage.run_folder import RunFolder
from raydistill.training.balance import Balance
from raydistill.training.biases import apply_biases, find_biases, find_scarce_classes, fit_biases
from raydistill.training.orders import count_labels
from raydistill.training.scoring import predict_logits


def check_repair(run: RunFolder, config: Config, examples: Examples, student: nn.Module, transfer: Tensor) -> None:
    """Whether the biases of classes that are scarce in the transfer set can be repaired, if any. Raises ModelError."""
    reference = count_labels(examples.y, read_split(run, "tune"), examples.classes)
    labels = examples.y[transfer]
    has_unlabeled = bool((labels < 0).any())  # of what classes these are, the teacher will say
    scarce = find_scarce_classes(labels[labels >= 0].bincount(minlength=examples.classes), reference)
    if config.transfer.repair == "auto" and (has_unlabeled or len(scarce)):
        find_biases(student, examples.classes)


def count_classes(run: RunFolder, examples: Examples, labelled: bool) -> Tensor:
    """How many examples of each class a student learns from, (K,). labelled: only from those with labels."""
    if not labelled:
        return torch.from_numpy(read_array(run.stage_folder("targets") / "class_counts.npy"))
    return count_labels(examples.y, read_transfer_rows(run), examples.classes)


def find_labelled(examples: Examples, rows: Tensor) -> Tensor:
    """Those of the rows (N,), ascending, that have labels: the first ones."""
    return rows[: int(count_labels(examples.y, rows, examples.classes).sum())]


def repair_biases(
    model: nn.Module,
    path: Path,
    run: RunFolder,
    examples: Examples,
    transfer: Tensor,
    balance: Balance | None = None,
) -> None:
    """Fit the biases of classes that are scarce in the transfer set on the tune split, and tell it in a file.

    transfer: (K,), how many examples of each class the model has learned from.
    """
    remove(path)
    rows = read_split(run, "tune")
    scarce = find_scarce_classes(transfer, count_labels(examples.y, rows, examples.classes))
    if len(scarce) == 0:
        return
    labels = examples.y[rows]
    logits = predict_logits(model, examples.x, rows)
    natural = logits if balance is None else logits + balance.offset(sampled=False)  # as these rows are
    offsets = fit_biases(natural, labels, scarce)
    apply_biases(model, scarce, offsets, examples.classes)
    repaired = predict_logits(model, examples.x, rows)
    write_json(
        path,
        {
            "classes": scarce.tolist(),
            "offsets": offsets.tolist(),
            "tune_accuracy_before": float((logits.argmax(dim=1) == labels).double().mean()),
            "tune_accuracy_after": float((repaired.argmax(dim=1) == labels).double().mean()),
        },
    )
