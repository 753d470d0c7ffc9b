"""Confusion matrices that a page can show for any number of classes: the whole with classes sharing cells, and a part.

Comes in: `Answers`, groups. Goes out: counts, and the whole as a small picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import csr_array

from raydistill.report.answers import Answers
from raydistill.report.thumbnails import encode_png
from raydistill.storage.files import Array, Sparse

MOST_CELLS = 260  # of a side; with more classes, several share one: a cell is at least a pixel on the page
FAINTEST = 0.3  # opacity of a single error


def order_classes(members: Array, affinity: Sparse | Array) -> tuple[Array, list[int]]:
    """Class numbers in group order, and where each group ends; a class counts to the group it is most confused with.

    members: boolean (M, K); affinity: (K, K), sparse or dense. Classes of no group come last.
    """
    pull = (csr_array(members, dtype=np.float64) @ csr_array(affinity)).toarray()  # (M, K)
    pull = np.where(members, pull + 1e-12, 0.0)
    home = np.where(members.any(axis=0), pull.argmax(axis=0), len(members))
    ends = np.cumsum(np.bincount(home, minlength=len(members)))[: len(members)]
    return np.argsort(home, kind="stable"), ends.tolist()


def count_errors(answers: Answers, order: Array, most: int = MOST_CELLS) -> Array:
    """Errors by true class (row) and predicted class (column), classes in the given order; right answers are left out.

    order: (K,) class numbers. Returns (P, P) counts, P = K, or at most `most` where several classes share a cell.
    """
    block = -(-len(order) // most)
    cells = -(-len(order) // block)
    cell_of_class = np.empty(len(order), dtype=np.int64)
    cell_of_class[order] = np.arange(len(order)) // block
    wrong = ~answers.correct
    true, said = (cell_of_class[classes[wrong].numpy()] for classes in (answers.labels, answers.predicted))
    return np.bincount(true * cells + said, minlength=cells**2).reshape(cells, cells)


def choose_zoomed(models: Mapping[str, Answers], members: Array, order: Array, most: int) -> Array:
    """The classes of a group to show, in the given order: all, or those with the most errors of all models inside it.

    members: boolean (K,).
    """
    inside = order[members[order]]
    if len(inside) <= most:
        return inside
    errors = np.zeros(len(order), dtype=np.int64)
    for answers in models.values():
        true, said = _errors_between(answers, members)
        np.add.at(errors, true, 1)
        np.add.at(errors, said, 1)
    worst = inside[np.argsort(-errors[inside], kind="stable")[:most]]
    return inside[np.isin(inside, worst)]


def count_between(answers: Answers, classes: Array, of: int) -> Array:
    """Errors (G, G) between some classes: true class (row), predicted class (column). of: K, the number of classes."""
    place = np.full(of, -1, dtype=np.int64)
    place[classes] = np.arange(len(classes))
    members = place >= 0
    true, said = _errors_between(answers, members)
    size = len(classes)
    return np.bincount(place[true] * size + place[said], minlength=size**2).reshape(size, size)


def measure_opacity(counts: Array, most: float) -> Array:
    """Opacity of cells by their errors: 0 for none, from FAINTEST for one to 1 for `most`, by the logarithm."""
    logs = np.log(np.maximum(counts, 1)) / np.log(max(most, 2.0))
    return np.where(counts > 0, FAINTEST + (1 - FAINTEST) * np.minimum(logs, 1.0), 0.0)


def draw_cells(counts: Array, most: float) -> str:
    """A white picture of (P, P) cells whose opacity says the errors, as a data: URI: a mask for the theme's colour."""
    opacity = (255 * measure_opacity(counts, most)).round().astype(np.uint8)
    return encode_png(Image.fromarray(np.stack([np.full_like(opacity, 255), opacity], axis=-1)))


def place_boxes(ends: Sequence[int], classes: int, cells: int) -> list[dict[str, float]]:
    """Where each group begins in the whole matrix and how wide it is, in cells; 0 where no class is at home in it."""
    block = -(-classes // cells)
    starts = [0, *ends[:-1]]
    return [{"start": start / block, "size": (end - start) / block} for start, end in zip(starts, ends, strict=True)]


def list_cells(counts: Array, most: float) -> list[dict[str, Any]]:
    """The cells that are not empty: row, column, count, opacity."""
    opacity = measure_opacity(counts, most)
    return [
        {
            "row": int(row),
            "column": int(column),
            "count": int(counts[row, column]),
            "opacity": float(opacity[row, column]),
        }
        for row, column in zip(*np.nonzero(counts), strict=True)
    ]


def _errors_between(answers: Answers, members: Array) -> tuple[Array, Array]:
    """True and predicted classes of the errors among a group's classes. members: boolean (K,)."""
    labels, predicted = answers.labels.numpy(), answers.predicted.numpy()
    inside = members[labels] & members[predicted] & (labels != predicted)
    return labels[inside], predicted[inside]
