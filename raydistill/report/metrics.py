"""Figures from answers: quality of one model, comparison of two, coverage by specialists.

Comes in: `Answers` of models to the same examples. Goes out: plain numbers for report.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from raydistill.report.answers import Answers
from raydistill.storage.files import Array

BINS = 15  # of the calibration error, as in Guo et al. 2017
TOP5_CLASSES = 20  # with fewer classes, the best five are no news
WORST_SHOWN = 5
COVERED_MOST = 10  # the paper's last row: "10 or more"
NORMAL_95 = 1.959964


def measure_model(answers: Answers, class_names: Sequence[str]) -> dict[str, Any]:
    """All figures of one model: its quality, and that by class."""
    return {**measure_quality(answers, len(class_names)), **measure_by_class(answers, class_names)}


def measure_quality(answers: Answers, classes: int) -> dict[str, Any]:
    """Accuracy, top-5 accuracy (None for few classes), negative log-likelihood in nats, calibration error."""
    return {
        "test_accuracy": float(answers.correct.double().mean()),
        "test_top5": float((answers.rank < 5).double().mean()) if classes >= TOP5_CLASSES else None,
        "test_nll": -float(answers.label_log_prob.mean()),
        "test_calibration_error": measure_calibration_error(answers.confidence, answers.correct),
    }


def measure_by_class(answers: Answers, class_names: Sequence[str]) -> dict[str, Any]:
    """Balanced accuracy, the mean of the accuracies of all classes that have examples, and the classes that fare worst.

    worst_classes: class, examples and accuracy of each, the worst first; of equals, those with more examples.
    """
    labels = answers.labels.numpy()
    counts = np.bincount(labels, minlength=len(class_names))
    right = np.bincount(labels, answers.correct.double().numpy(), minlength=len(class_names))
    there = np.flatnonzero(counts)
    accuracy = right[there] / counts[there]
    worst = np.lexsort((-counts[there], accuracy))[:WORST_SHOWN]
    return {
        "balanced_accuracy": float(accuracy.mean()),
        "worst_classes": [
            {
                "class": class_names[there[place]],
                "examples": int(counts[there[place]]),
                "accuracy": float(accuracy[place]),
            }
            for place in worst
        ],
    }


def measure_calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equally wide bins of confidence, by their examples.

    confidence: (N,) from 0 to 1; correct: boolean (N,). Source: Guo, Pleiss, Sun, Weinberger 2017, equation 3.
    """
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins are open below and closed above
    gaps = np.bincount(place.numpy(), (correct.double() - confidence.double()).numpy(), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


@dataclass(frozen=True)
class Comparison:
    """Two models on the same examples. difference: accuracy of the first less the second's; interval: of 95 %."""

    difference: float
    interval: tuple[float, float]
    first_only_right: int
    second_only_right: int
    p_value: float


def compare_models(first: Tensor, second: Tensor) -> Comparison:
    """Compare by McNemar's exact test: of the examples that one model alone gets right, has each its half.

    first, second: boolean (N,), right or wrong. Source: McNemar 1947; p two-sided from the binomial distribution. The
    interval is Wald's for paired proportions: (b - c)/N ± 1.96 √(b + c - (b - c)²/N) / N.
    """
    from scipy.special import bdtr  # scipy.stats has it as binomtest, and takes a second to import

    count, b, c = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    difference = (b - c) / count
    half = NORMAL_95 * math.sqrt(max(b + c - (b - c) ** 2 / count, 0.0)) / count
    p_value = min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))
    return Comparison(difference, (difference - half, difference + half), b, c, p_value)


def tabulate_coverage(members: Array, generalist: Answers, ensemble: Answers) -> list[dict[str, Any]]:
    """Accuracy by the number of specialists that cover the true class, and the relative gain.

    members: boolean (M, K). Source: Hinton, Vinyals, Dean 2015, table 4; its last row is "10 or more".
    """
    covering = np.minimum(members.sum(axis=0), COVERED_MOST)[generalist.labels.numpy()]
    rows = []
    for number in np.unique(covering):
        here = covering == number
        before, after = (float(model.correct.numpy()[here].mean()) for model in (generalist, ensemble))
        rows.append(
            {
                "specialists": int(number),
                "examples": int(here.sum()),
                "generalist_accuracy": before,
                "ensemble_accuracy": after,
                "relative_gain": after / before - 1 if before else None,
            }
        )
    return rows
