"""Which classes are confused: from logits and labels to a confusion matrix or covariance, and to an affinity.

Comes in: logits (N, K) of the generalist on the confuse split, labels (N,). Goes out: matrices (K, K) in float64.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raydistill.files import Array

Affinity = Literal["soft", "hard", "covariance"]


def count_confusions(logits: Tensor, labels: Tensor) -> Array:
    """Hard confusions: how often class i was taken for class j, entry (i, j). Returns (K, K) counts."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(dim=1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).double().numpy()


def sum_confusions(logits: Tensor, labels: Tensor) -> Array:
    """Soft confusions: entry (i, j) sums the probabilities of class j over the examples of class i. Returns (K, K)."""
    classes = logits.shape[1]
    sums = torch.zeros(classes, classes, dtype=torch.float64)
    for part, part_labels in zip(logits.split(4096), labels.split(4096), strict=True):
        sums.index_add_(0, part_labels, part.double().softmax(dim=1))
    return sums.numpy()


def measure_covariance(logits: Tensor) -> Array:
    """Covariance of the predicted probabilities over examples, which needs no labels.

    Source: Hinton, Vinyals, Dean 2015, section 5.3 cluster its columns. Returns (K, K).
    """
    classes = logits.shape[1]
    mean, products = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, classes, dtype=torch.float64)
    for part in logits.split(4096):
        probs = part.double().softmax(dim=1)
        mean += probs.sum(dim=0)
        products += probs.T @ probs
    mean /= len(logits)
    return (products / len(logits) - torch.outer(mean, mean)).numpy()


def measure_confusion(logits: Tensor, labels: Tensor, affinity: Affinity) -> Array:
    """The matrix that a choice of affinity starts from, (K, K)."""
    if affinity == "hard":
        return count_confusions(logits, labels)
    if affinity == "soft":
        return sum_confusions(logits, labels)
    return measure_covariance(logits)


def build_affinity(confusion: Array) -> Array:
    """Symmetric, non-negative, diagonal-free: (C + Cᵀ) / 2 without its diagonal; negative covariances count as 0."""
    affinity = np.clip((confusion + confusion.T) / 2, 0.0, None)
    np.fill_diagonal(affinity, 0.0)
    return affinity
