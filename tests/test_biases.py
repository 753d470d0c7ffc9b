"""Bias repair against scipy on the definition, known shifts, and what confidence and scale must not change."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import nn
from torch.nn.functional import one_hot

from raydistill.data.arrays import Normalisation
from raydistill.errors import ModelError
from raydistill.networks.models import build_model
from raydistill.training.biases import RIDGE, apply_biases, find_scarce_classes, fit_biases


def draw_calibrated(count=20_000, classes=10, features=8, distance=1.2, seed=0):
    """Gaussian classes of unit variance and the true log-posteriors: logits (N, K) float32, labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    centres = distance * torch.randn(classes, features, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    x = centres[labels] + torch.randn(count, features, generator=generator)
    return x @ centres.T - centres.square().sum(dim=1) / 2, labels


def shift(logits, scarce, offsets):
    raised = logits.clone()
    raised[:, scarce] += torch.as_tensor(offsets, dtype=logits.dtype)
    return raised


def accuracy(logits, labels):
    return float((logits.argmax(dim=1) == labels).double().mean())


def test_scarce_is_less_than_a_tenth_of_the_share_in_the_reference():
    reference = torch.arange(5).repeat_interleave(torch.tensor([100, 100, 100, 0, 200]))
    transfer = torch.arange(5).repeat_interleave(torch.tensor([960, 20, 19, 0, 1]))  # a tenth of the share: 20 of 1000
    assert find_scarce_classes(transfer.bincount(minlength=5), reference.bincount()).tolist() == [2, 4]


def test_without_shortage_no_class_is_scarce():
    counts = torch.tensor([3, 3, 3, 3, 3, 3, 0])
    assert find_scarce_classes(torch.tensor([2, 2, 2, 1, 1, 1, 0]), counts).tolist() == []


@pytest.mark.parametrize("scarce", [[3], [6, 1], [0, 1, 2, 3, 4, 5, 6, 7]])
@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_agrees_with_scipy(scarce, scale):
    logits, labels = draw_calibrated(count=500, seed=len(scarce))
    logits = scale * shift(logits, torch.tensor(scarce), [-2.0])
    z, y = logits.double().numpy(), labels.numpy()
    spread = np.sqrt(np.mean((z - z.mean(axis=1, keepdims=True)) ** 2))

    def objective(values):
        shifted = values[-1] * z / spread
        shifted[:, scarce] += values[:-1]
        return -log_softmax(shifted, axis=1)[np.arange(len(y)), y].mean() + RIDGE / 2 * (values**2).sum()

    found = minimize(objective, np.ones(len(scarce) + 1), method="BFGS", options={"gtol": 1e-9}).x
    got = fit_biases(logits, labels, torch.tensor(scarce))
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), spread * found[:-1] / found[-1], rtol=1e-4, atol=1e-5 * scale)


def test_finds_the_shift_of_one_class():
    """PAPER: the bias of class 3 had to rise by 3.5. The standard error here is 0.05."""
    logits, labels = draw_calibrated()
    shifted = shift(logits, torch.tensor([3]), [-3.5])
    offsets = fit_biases(shifted, labels, torch.tensor([3]))
    assert offsets.item() == pytest.approx(3.5, abs=0.15)
    repaired = accuracy(shift(shifted, torch.tensor([3]), offsets), labels)
    assert repaired == pytest.approx(accuracy(logits, labels), abs=0.001)
    assert repaired > accuracy(shifted, labels) + 0.03


def test_finds_the_shifts_where_eight_of_ten_classes_are_absent():
    """PAPER: a transfer set of 7s and 8s only."""
    logits, labels = draw_calibrated()
    scarce = find_scarce_classes(labels[(labels == 7) | (labels == 8)].bincount(minlength=10), labels.bincount())
    assert scarce.tolist() == [0, 1, 2, 3, 4, 5, 6, 9]
    expected = torch.linspace(6, 9, 8, dtype=torch.float64)
    offsets = fit_biases(shift(logits, scarce, -expected), labels, scarce)
    torch.testing.assert_close(offsets, expected, rtol=0, atol=0.25)


@pytest.mark.parametrize("confidence", [0.1, 10.0])
def test_confidence_and_a_rows_level_make_no_difference(confidence):
    logits, labels = draw_calibrated(count=1000)
    scarce = torch.tensor([2, 5])
    expected = confidence * fit_biases(logits, labels, scarce)
    levels = torch.randn(1000, 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fit_biases(confidence * logits + levels, labels, scarce), expected, rtol=1e-4, atol=1e-4)


def test_separable_labels_give_finite_offsets_that_separate():
    """Every class wins its examples by 20, class 3 falls short of that by 30: anything from 10 to 50 is right."""
    labels, scarce = torch.arange(10).repeat(5), torch.tensor([3])
    logits = shift(20.0 * one_hot(labels, 10), scarce, [-30.0])
    assert accuracy(logits, labels) == 0.9
    offsets = fit_biases(logits, labels, scarce)
    assert 10 < offsets.item() < 50
    assert accuracy(shift(logits, scarce, offsets), labels) == 1


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_logits_that_say_nothing_or_the_opposite_stay_finite(sign):
    logits, labels = draw_calibrated(count=1000)
    offsets = fit_biases(sign * logits, labels, torch.tensor([3, 4]))
    assert torch.isfinite(offsets).all()
    frequent = labels.clone()
    frequent[::2] = 3
    assert fit_biases(sign * logits, frequent, torch.tensor([3])).item() > 0


def test_logits_that_are_not_finite_are_named():
    logits, labels = draw_calibrated(count=100)
    logits[5, 5] = torch.nan
    with pytest.raises(FloatingPointError, match="finite"):
        fit_biases(logits, labels, torch.tensor([3]))


def test_applied_biases_raise_the_logits_by_the_offsets():
    model = build_model("mlp", {}, input_shape=(6,), classes=10, normalisation=Normalisation(0, 1), seed=0)
    inputs = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    before, scarce = model(inputs).detach(), torch.tensor([3, 8])
    apply_biases(model, scarce, torch.tensor([3.5, -1.25], dtype=torch.float64), 10)
    torch.testing.assert_close(model(inputs), shift(before, scarce, [3.5, -1.25]), rtol=0, atol=1e-6)
    assert model[1][-1].bias.requires_grad


@pytest.mark.parametrize(
    ("model", "told"), [(nn.Linear(4, 9), "10 outputs.*none"), (nn.Linear(4, 10, bias=False), "no biases")]
)
def test_a_model_without_such_biases_is_told_the_remedy(model, told):
    with pytest.raises(ModelError, match=told + ".*bias=True"):
        apply_biases(model, torch.tensor([3]), torch.tensor([3.5]), 10)
