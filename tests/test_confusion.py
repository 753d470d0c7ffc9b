"""Predictions, confusions, covariance and affinity against scikit-learn and numpy."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from raydistill.errors import ConfigError
from raydistill.method.confusion import (
    MOST_DENSE_CLASSES,
    MOST_PREDICTIONS,
    build_affinity,
    check_dense,
    count_confusions,
    count_kept,
    keep_probable,
    measure_confusion,
    measure_covariance,
    sum_confusions,
)
from raydistill.settings.config import GroupingConfig


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


def test_dense_and_sparse_confusions_have_the_same_affinity():
    logits, labels = draw()
    confusion = sum_confusions(keep(logits), labels)
    dense = confusion.toarray()
    expected = (dense + dense.T) / 2
    np.fill_diagonal(expected, 0)
    for given in (confusion, confusion.tocoo(), dense):
        np.testing.assert_array_equal(build_affinity(given).toarray(), expected)


@pytest.mark.parametrize("kept", [1, 3, 7])
def test_the_most_probable_classes_are_kept_in_order(kept):
    logits, _ = draw(examples=2500)
    predictions, probs = keep(logits, kept), softmax(logits.double().numpy(), 1)
    expected = np.argsort(-probs, axis=1)[:, :kept]
    np.testing.assert_array_equal(predictions.top, expected)
    np.testing.assert_allclose(predictions.probs, np.take_along_axis(probs, expected, 1), rtol=1e-12)
    whole = np.zeros_like(probs)
    np.put_along_axis(whole, expected, predictions.probs, 1)
    np.testing.assert_array_equal(predictions.to_sparse().toarray(), whole)
    rows = np.array([5, 5, 2])
    np.testing.assert_array_equal(predictions[rows].to_sparse().toarray(), whole[rows])


def test_blocks_do_not_matter():
    logits, _ = draw(examples=3000)
    whole = keep_probable([logits], 3000)
    for size in (1, 7, 2999):
        blocks = keep_probable(iter(logits.split(size)), 3000)
        np.testing.assert_array_equal(whole.top, blocks.top)
        np.testing.assert_array_equal(whole.probs, blocks.probs)
    with pytest.raises(ValueError, match="2999 examples came, 3000 were announced"):
        keep_probable([logits[1:]], 3000)


def test_few_classes_are_kept_whole_and_many_within_a_bound():
    assert count_kept(20_000, 523) == 523
    assert count_kept(150_000, 15_000) * 150_000 <= MOST_PREDICTIONS
    assert count_kept(10**7, 100_000) == 32


@pytest.mark.parametrize("settings", [{"affinity": "covariance"}, {"method": "kmeans"}])
def test_a_covariance_of_too_many_classes_is_refused(settings):
    field, value = next(iter(settings.items()))
    grouping = GroupingConfig(**settings)
    check_dense(grouping, MOST_DENSE_CLASSES)
    check_dense(GroupingConfig(), 10**6)
    with pytest.raises(
        ConfigError, match=rf"grouping\.{field}: '{value}' for 15000 classes .* at most 8192 .*; give s"
    ):
        check_dense(grouping, 15_000)


def test_confusions_of_twenty_thousand_classes_are_never_dense():
    """A dense (K, K) would be 3.2 GB."""
    classes, examples = 20_000, 5000
    labels = torch.arange(examples) * 4
    block = torch.randn(250, classes, generator=torch.Generator().manual_seed(0))
    tracemalloc.start()
    predictions = keep_probable((block for _ in range(examples // len(block))), examples, 32)
    affinity = build_affinity(sum_confusions(predictions, labels))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert affinity.nnz > 300_000
    assert peak < 50e6
