"""How far a model's confidence can be trusted: accuracy by confidence, as a reliability diagram shows it.

Comes in: `Answers`. Goes out: plain numbers for report.json.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raydistill.report.answers import Answers
from raydistill.report.metrics import BINS
from raydistill.storage.files import Array

SHARES = 20  # of the examples, equally far apart, at which the surest are looked at


def measure_reliability(answers: Answers, bins: int = BINS) -> dict[str, Any]:
    """Mean confidence, the bins of confidence that have examples, with their number and both means, and `surest`.

    surest: pairs (share of the examples, accuracy among those of which the model is surest). The bins are those of the
    calibration error: open below, closed above. Source: Guo et al. 2017, figure 1.
    """
    confidence, correct = answers.confidence.numpy(), answers.correct.numpy().astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64), 1, bins) - 1
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, minlength=bins) for values in (confidence, correct)]
    return {
        "confidence": float(confidence.mean()),
        "bins": [
            {
                "examples": int(counts[index]),
                "confidence": float(sums[0][index] / counts[index]),
                "accuracy": float(sums[1][index] / counts[index]),
            }
            for index in np.flatnonzero(counts)
        ],
        "surest": measure_surest(confidence, correct),
    }


def measure_surest(confidence: Array, correct: Array) -> list[tuple[float, float]]:
    """Accuracy among the surest 5 %, 10 %, … of the examples, as pairs. confidence, correct: (N,)."""
    right = np.cumsum(correct[np.argsort(-confidence, kind="stable")])
    counts = np.unique(np.ceil(np.arange(1, SHARES + 1) / SHARES * len(right)).astype(np.int64))
    return [(float(count / len(right)), float(right[count - 1] / count)) for count in counts]
