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
from raydistill.report.shares import AT_PRIOR
from raydistill.storage.files import Array

BINS = 15  # of the calibration error, as in Guo et al. 2017
TOP5_CLASSES = 20  # with fewer classes, the best five are no news
WORST_SHOWN = 5
COVERED_MOST = 10  # the paper's last row: "10 or more"
NORMAL_95 = 1.959964
FLIPS = 19_999  # of signs, for a p of weighted examples: its standard error at 0.01 is 0.0007, the least is 0.00005
FLIP_SEED = 0  # the same comparison has the same p


def measure_model(answers: Answers, class_names: Sequence[str], weights: Tensor | None = None) -> dict[str, Any]:
    """All figures of one model: its quality, that by class, and with weights (N,), of mean 1, its weighted accuracy."""
    figures = {**measure_quality(answers, len(class_names)), **measure_by_class(answers, class_names)}
    return figures if weights is None else {**figures, AT_PRIOR: float((weights * answers.correct).mean())}


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


def compare_models(first: Tensor, second: Tensor, weights: Tensor | None = None) -> Comparison:
    """Compare two models on the same examples: difference of accuracies, its interval, and p by flip_signs.

    first, second: boolean (N,), right or wrong; weights: (N,), of mean 1, what each example counts for; None: alike.
    The interval is Wald's for paired proportions: with d = first - second, Σwd/N ± 1.96 √(Σ(wd)² - (Σwd)²/N) / N.
    """
    count, b, c = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    signed = first.double() - second.double()
    signed = signed if weights is None else weights * signed
    total, squares = float(signed.sum()), float(signed.square().sum())
    half = NORMAL_95 * math.sqrt(max(squares - total**2 / count, 0.0)) / count
    interval = (total / count - half, total / count + half)
    return Comparison(total / count, interval, b, c, flip_signs(signed[signed != 0].numpy()))


def flip_signs(signed: Array) -> float:
    """Two-sided p of the sum of signed weights (n,), of the examples that one model alone gets right.

    Where both models are as good, each sign is as likely as the other: Fisher's randomisation test (The Design of
    Experiments, 1935, section 21). Equal weights make it McNemar's exact test (1947), by the binomial distribution;
    others are drawn, and p = (1 + sums as far from 0) / (1 + all) is no smaller than it should be, for any n
    (Phipson and Smyth 2010).
    """
    from scipy.special import bdtr  # scipy.stats has it as binomtest, and takes a second to import

    sizes, counts = np.unique(np.abs(signed), return_counts=True)
    if len(sizes) <= 1:
        fewer = min(int((signed > 0).sum()), int((signed < 0).sum()))
        return min(1.0, 2 * float(bdtr(fewer, len(signed), 0.5)))
    generator, sums = np.random.default_rng(FLIP_SEED), np.zeros(FLIPS)
    for size, count in zip(sizes, counts, strict=True):
        sums += size * (2 * generator.binomial(count, 0.5, FLIPS) - count)
    least = abs(float(signed.sum())) - 1e-9 * float(sizes @ counts)  # rounding parts no sums that are equal
    return (1 + int((np.abs(sums) >= least).sum())) / (1 + FLIPS)


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
