"""Confusion matrices, covariance and affinity against scikit-learn and numpy."""

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from raydistill.confusion import (
    build_affinity,
    count_confusions,
    keep_probable,
    measure_confusion,
    measure_covariance,
    sum_confusions,
)


def draw(examples=9000, classes=7):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(examples, classes, generator=generator) * 2, torch.randint(
        classes, (examples,), generator=generator
    )


def keep(logits, kept=None):
    return keep_probable(logits.split(1000), len(logits), kept)


def test_hard_confusions_are_sklearns():
    logits, labels = draw()
    counts = count_confusions(keep(logits), labels).toarray()
    np.testing.assert_array_equal(counts, confusion_matrix(labels, logits.argmax(1)))


def test_soft_confusions_sum_probabilities_by_true_class():
    logits, labels = draw()
    probs = softmax(logits.double().numpy(), 1)
    expected = np.stack([probs[labels.numpy() == label].sum(0) for label in range(7)])
    np.testing.assert_allclose(sum_confusions(keep(logits), labels).toarray(), expected, rtol=1e-9)


def test_covariance_is_numpys():
    logits, _ = draw()
    expected = np.cov(softmax(logits.double().numpy(), 1).T, bias=True)
    np.testing.assert_allclose(measure_covariance(keep(logits)), expected, atol=1e-12)


def test_affinity_is_symmetric_nonnegative_without_diagonal():
    logits, labels = draw()
    for choice in ("soft", "hard", "covariance"):
        affinity = build_affinity(measure_confusion(keep(logits), labels, choice)).toarray()
        np.testing.assert_array_equal(affinity, affinity.T)
        assert (affinity >= 0).all()
        assert (np.diag(affinity) == 0).all()
