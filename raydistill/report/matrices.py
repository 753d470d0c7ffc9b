"""Confusion matrices as the page draws them: the whole for each model, and each group's own block with class names.

Comes in: `Answers` by model, groups, the order of classes. Goes out: views of numbers and names, without markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from raydistill.report.answers import Answers
from raydistill.report.changes import list_confusions
from raydistill.report.confusions import (
    choose_zoomed,
    count_between,
    count_errors,
    draw_cells,
    list_cells,
    place_boxes,
)
from raydistill.storage.files import Array

ZOOMED_CLASSES = 18  # of a group, shown with their names
ZOOMED_GROUPS = 60  # with the most errors; more would make the page too large
SHOWN_PAIRS = 6  # most frequent confusions of a group
ALL_PAIRS = 10  # of all classes
LONGEST_NAME = 14  # characters beside a matrix
SIDE, CELLS = 234, (13, 28)  # pixels of a block, and of a cell at least and at most
NUMBERED = 20  # pixels from which a cell holds its number
CHARACTER = 6.4  # pixels that a character of a name takes, about
UPRIGHT = 2  # characters up to which names above a matrix need not be turned


def show_whole(models: Mapping[str, Answers], order: Array, ends: Sequence[int]) -> dict[str, Any]:
    """Every model's errors, classes in the given order, on one scale; and where each group's box lies."""
    counts = {name: count_errors(answers, order) for name, answers in models.items()}
    most = max(float(matrix.max()) for matrix in counts.values())
    cells = len(next(iter(counts.values())))
    return {
        "cells": cells,
        "classes_a_cell": -(-len(order) // cells),
        "most": int(most),
        "boxes": place_boxes(ends, len(order), cells) if len(ends) else [],
        "models": {
            name: {"errors": int(matrix.sum()), "picture": draw_cells(matrix, most)} for name, matrix in counts.items()
        },
    }


def zoom_groups(
    models: Mapping[str, Answers], members: Array, order: Array, names: Sequence[str]
) -> list[dict[str, Any] | None]:
    """The block of each group; of many groups, None for those with the fewest errors of the generalist."""
    errors = [
        int((~models["generalist"].correct & torch.from_numpy(row)[models["generalist"].labels]).sum())
        for row in members
    ]
    worst = set(np.argsort([-count for count in errors], kind="stable")[:ZOOMED_GROUPS].tolist())
    return [zoom(models, row, order, names) if index in worst else None for index, row in enumerate(members)]


def zoom(models: Mapping[str, Answers], members: Array, order: Array, names: Sequence[str]) -> dict[str, Any]:
    """One block: the errors among a group's classes, of each model, and its most frequent confusions.

    members: boolean (K,). Of a large group, the classes with the most errors are shown.
    """
    classes = choose_zoomed(models, members, order, ZOOMED_CLASSES)
    counts = {name: count_between(answers, classes, len(order)) for name, answers in models.items()}
    most = max(float(matrix.max()) for matrix in counts.values())
    labels = [shorten(names[index]) for index in classes]
    inside = torch.from_numpy(members)
    cell = min(max(SIDE // len(classes), CELLS[0]), CELLS[1])
    longest = max(len(label) for label in labels)
    return {
        "classes": len(classes),
        "of": int(members.sum()),
        "labels": labels,
        "cell": cell,
        "margin": round(10 + max(8.0, *(width_of(label) for label in labels))),
        "side": len(classes) * cell,
        "numbered": cell >= NUMBERED,
        "upright": longest <= UPRIGHT,
        "most": int(most),
        "models": {
            name: {
                "errors": _count_inside(models[name], inside),
                "cells": list_cells(matrix, most),
            }
            for name, matrix in counts.items()
        },
        "pairs": name_pairs(list_confusions(models, SHOWN_PAIRS, inside), names),
    }


def name_pairs(pairs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Confusions with the names of their classes."""
    return [{**pair, "true": names[pair["true"]], "said": names[pair["said"]]} for pair in pairs]


def shorten(name: str) -> str:
    """A name beside a matrix."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def width_of(label: str) -> float:
    """About how wide a label is, in units of the drawing; letters of East Asian scripts are twice as wide."""
    return sum(CHARACTER * (2 if ord(letter) >= 0x2E80 else 1) for letter in label)


def _count_inside(answers: Answers, inside: torch.Tensor) -> int:
    return int((~answers.correct & inside[answers.labels] & inside[answers.predicted]).sum())
