"""Arrays that a caller gives, as tensors: examples, labels, logits, groups, checked.

Comes in: NumPy arrays, tensors, lists. Goes out: tensors, or a DataError that names the argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydistill.data.arrays import Examples
from raydistill.data.labels import check_labels
from raydistill.data.objects import to_array
from raydistill.data.stored import choose_type
from raydistill.errors import DataError
from raydistill.method.specialists import Dustbin, Group
from raydistill.storage.files import Array
from raydistill.training.batches import Sampler, shuffle_rows

ArrayLike = Any
"""A NumPy array, a tensor, or nested lists of numbers."""
Pair = tuple[ArrayLike, ArrayLike]
"""Examples x (N, ...) and labels y (N,)."""


def to_group(members: ArrayLike, classes: int, dustbin: Dustbin = "merged") -> Group:
    """The classes of a specialist, from boolean (K,). Raises DataError for other shapes, or a group of all classes."""
    inside = to_array(members, "members").astype(bool)
    if inside.shape != (classes,) or not 0 < inside.sum() < classes:
        raise DataError(
            f"members: shape {inside.shape} with {int(inside.sum())} classes; give a boolean for each of {classes}"
            f" classes, 1 to {classes - 1} of them true"
        )
    return Group(torch.from_numpy(np.flatnonzero(inside)), classes, dustbin)


@dataclass(frozen=True)
class TwoParts:
    """Examples, the rows of the training part and of the held-out one, and how training rows are drawn."""

    examples: Examples
    train: Tensor
    valid: Tensor
    sampler: Sampler

    def sampled(self, sampler: Sampler) -> TwoParts:
        """With other training rows."""
        return replace(self, sampler=sampler)


def join_parts(x: ArrayLike, y: ArrayLike, valid: Pair, classes: int) -> TwoParts:
    """Both parts as one. Raises DataError where their shapes, types or lengths disagree."""
    inputs, held_out = to_examples(x, "x"), to_examples(valid[0], "valid[0]")
    if inputs.shape[1:] != held_out.shape[1:] or inputs.dtype != held_out.dtype:
        raise DataError(
            f"valid: examples of shape {tuple(held_out.shape[1:])}, {held_out.dtype}, but x has"
            f" {tuple(inputs.shape[1:])}, {inputs.dtype}; give both the same"
        )
    labels = [to_labels(y, classes, "y"), to_labels(valid[1], classes, "valid[1]")]
    if [len(inputs), len(held_out)] != list(map(len, labels)):
        raise DataError(f"y: {len(labels[0])} and {len(labels[1])} labels; give one for each example")
    names = tuple(map(str, range(classes)))
    examples = Examples(torch.cat([inputs, held_out]), torch.cat(labels), names)
    rows = torch.arange(len(examples.y))
    return TwoParts(examples, rows[: len(inputs)], rows[len(inputs) :], shuffle_rows(rows[: len(inputs)]))


def part_rows(labels: Tensor, rows: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Rows of the group's classes and all others."""
    own = group.inside[labels[rows]]
    return rows[own], rows[~own]


def to_examples(x: ArrayLike, name: str) -> Tensor:
    """Examples (N, ...), in a type that PyTorch has."""
    array = to_array(x, name)
    if array.ndim < 2:
        raise DataError(f"{name}: shape {array.shape}; give (examples, ...)")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=choose_type(array.dtype)))


def to_logits(logits: ArrayLike, name: str) -> Tensor:
    """Floats (N, K)."""
    array: Array = to_array(logits, name)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise DataError(f"{name}: shape {array.shape}, type {array.dtype}; give floats (examples, classes)")
    return torch.from_numpy(array if array.dtype == np.float64 else array.astype(np.float32, copy=False))


def to_labels(labels: ArrayLike, classes: int, name: str) -> Tensor:
    """Class numbers (N,), from 0."""
    array = to_array(labels, name)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{name}: shape {array.shape}, type {array.dtype}; give a class number from 0 for each example")
    check_labels(array, classes, name)
    return torch.from_numpy(array.astype(np.int64))
