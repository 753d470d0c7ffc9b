"""For which shares of classes probabilities hold, and how far the test split's are from these.

Comes in: numbers of examples by class, balance.prior. Goes out: distances for report.json, the accuracy that models are
judged by, and the sentences that say which it is, and what the distances do to loss and calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from raydistill.training.balance import EXPONENTS

APART = 0.05  # so much further from the shares wanted than from the training rows', and the sentence is said
WANTED = {"equal": "classes that are all as frequent", "sqrt": "shares of classes that are nearer to each other"}
AT_PRIOR = "accuracy_at_prior"  # of test examples weighted to the shares wanted; only where these are not natural
MEASURES = {"natural": "test accuracy", "equal": "balanced accuracy", "sqrt": "weighted accuracy"}
"""What the accuracy that models are judged by is called, by balance.prior."""


def judged_accuracy(figures: Mapping[str, Any]) -> float:
    """The accuracy that a model is judged by: at the shares of classes that are wanted."""
    return float(figures[AT_PRIOR] if AT_PRIOR in figures else figures["test_accuracy"])


def name_measure(numbers: Mapping[str, Any]) -> str:
    """What that accuracy is called."""
    return MEASURES[numbers["balance"]["prior"]]


def say_weighted(numbers: Mapping[str, Any], text: str = "weighted ") -> str:
    """A text that belongs only where test examples are weighted; else ''."""
    return "" if numbers["balance"]["prior"] == "natural" else text


def describe_measure(numbers: Mapping[str, Any]) -> str | None:
    """By what models are judged, where test examples are weighted."""
    prior = numbers["balance"]["prior"]
    if prior == "natural":
        return None
    return (
        f"Models are judged by {MEASURES[prior]}: test examples are weighted to {WANTED[prior]}, as balance.prior"
        f" {prior} wants."
    )


def measure_distances(fit: Tensor, test: Tensor, prior: str) -> dict[str, float]:
    """Distances of the test split's shares of classes, from 0 to 1: to the fit split's, and to those of the prior.

    fit, test: examples of each class, (K,). A distance is the total variation: half the sum of all differences.
    """
    shares = fit.double() / fit.sum()
    wanted = shares ** (1 - EXPONENTS[prior])
    there = test.double() / test.sum()
    return {
        "to_training": float((there - shares).abs().sum() / 2),
        "to_prior": float((there - wanted / wanted.sum()).abs().sum() / 2),
    }


def describe_shares(numbers: Mapping[str, Any]) -> str | None:
    """Why loss and calibration look worse than they are; None where the test split has the shares that are wanted."""
    balance = numbers["balance"]
    apart = balance["test_distance"]
    if balance["prior"] == "natural" or apart["to_prior"] - apart["to_training"] <= APART:
        return None
    return (
        f"Loss and calibration error look worse here than they are, by intent: probabilities hold for"
        f" {WANTED[balance['prior']]} (balance.prior {balance['prior']}), for which {apart['to_prior']:.0%} of the test"
        f" examples would have to be of other classes; look at {name_measure(numbers)},"
        f" {judged_accuracy(numbers['student']):.2%} for the student."
    )
