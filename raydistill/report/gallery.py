"""Examples that a page shows: those that a model mends and breaks, and samples of each group's classes.

Comes in: examples, the test rows, `Answers` to them. Goes out: views with class names and small pictures; where
examples are no images, their first values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raydistill.data.arrays import Examples
from raydistill.report.answers import Answers
from raydistill.report.changes import pick_changes
from raydistill.report.thumbnails import are_images, encode_images
from raydistill.storage.files import Array

MOST_CHANGES = 12  # of the mended examples, and of the broken ones
CHANGE_SIDE, SAMPLE_SIDE = 64, 40  # pixels
MOST_SAMPLES, ALL_SAMPLES = 10, 320  # pictures of a group, and of all groups together
SHOWN_VALUES = 4  # of an example that is no image


def show_changes(
    examples: Examples, rows: Tensor, models: Mapping[str, Answers], after: str, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Examples that the model named `after` fixed and broke against the generalist, drawn by chance.

    models: answers to the test rows, (N,), by name; all of them are shown.
    """
    fixed, broken = pick_changes(models["generalist"], models[after], MOST_CHANGES, seed)
    return {
        name: show_examples(examples, rows, positions, models)
        for name, positions in (("fixed", fixed), ("broken", broken))
    }


def show_examples(
    examples: Examples, rows: Tensor, positions: Tensor, models: Mapping[str, Answers]
) -> list[dict[str, Any]]:
    """Each example with its row, picture or first values, true class, and the models' answers."""
    chosen, names = rows[positions], examples.class_names
    x = examples.x.index_select(0, chosen)
    pictures: Sequence[str | None] = [None] * len(chosen)
    if are_images(examples.input_shape):
        pictures = encode_images(x, CHANGE_SIDE)
    return [
        {
            "row": int(chosen[place]),
            "picture": pictures[place],
            "values": [float(value) for value in x[place].flatten()[:SHOWN_VALUES]],
            "true": names[int(examples.y[chosen[place]])],
            "answers": {
                name: {
                    "said": names[int(answers.predicted[position])],
                    "confidence": float(answers.confidence[position]),
                    "right": bool(answers.correct[position]),
                }
                for name, answers in models.items()
            },
        }
        for place, position in enumerate(positions.tolist())
    ]


def sample_groups(examples: Examples, rows: Tensor, labels: Tensor, members: Array) -> list[list[dict[str, str]]]:
    """For each group, a test image of some of its classes, evenly over them; none where examples are no images.

    labels: (N,) of the rows; members: boolean (M, K).
    """
    if not are_images(examples.input_shape):
        return [[] for _ in members]
    first = torch.full((examples.classes,), -1, dtype=torch.int64)
    first[labels.flip(0)] = torch.arange(len(labels)).flip(0)  # position of each class's first example
    most = max(1, min(MOST_SAMPLES, ALL_SAMPLES // len(members)))
    shown = []
    for row in members:
        classes = torch.from_numpy(row).nonzero().squeeze(1)
        classes = classes[first[classes] >= 0]
        chosen = classes[torch.linspace(0, max(0, len(classes) - 1), min(most, len(classes))).long()]
        shown.append(chosen)
    pictures = iter(encode_images(examples.x.index_select(0, rows[first[torch.cat(shown)]]), SAMPLE_SIDE))
    return [
        [{"name": examples.class_names[index], "picture": next(pictures)} for index in classes.tolist()]
        for classes in shown
    ]
