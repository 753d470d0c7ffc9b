"""For which shares of classes probabilities hold, and how far the test split's are from these.

Comes in: numbers of examples by class, balance.prior. Goes out: distances for report.json, and the sentence that says
what they do to loss and calibration.
"""

from __future__ import annotations

from torch import Tensor

from raydistill.report.names import Numbers
from raydistill.training.balance import EXPONENTS

APART = 0.05  # so much further from the shares wanted than from the training rows', and the sentence is said
WANTED = {"equal": "classes that are all as frequent", "sqrt": "shares of classes that are nearer to each other"}


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


def describe_shares(numbers: Numbers) -> str | None:
    """Why loss and calibration look worse than they are; None where the test split has the shares that are wanted."""
    balance = numbers["balance"]
    apart = balance["test_distance"]
    if balance["prior"] == "natural" or apart["to_prior"] - apart["to_training"] <= APART:
        return None
    return (
        f"Loss and calibration error look worse here than they are, by intent: probabilities hold for"
        f" {WANTED[balance['prior']]} (balance.prior {balance['prior']}), for which {apart['to_prior']:.0%} of the test"
        f" examples would have to be of other classes; look at balanced accuracy,"
        f" {numbers['student']['balanced_accuracy']:.2%} for the student."
    )
