"""The distillation loss against an independent formula in numpy, its limits, and the defects of other libraries."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.nn.functional import cross_entropy

from raydistill.training.losses import distillation_loss, soften


def draw(batch=7, classes=11, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    teacher = torch.log_softmax(scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64), 1)
    return logits, teacher, torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("label_weight", [0.0, 0.3, 1.0])
def test_agrees_with_numpy(temperature, label_weight):
    logits, teacher, labels = draw()
    z, v, rows = logits.numpy(), teacher.numpy(), np.arange(7)
    soft = -(softmax(v / temperature, 1) * log_softmax(z / temperature, 1)).sum(1) * temperature**2
    hard = -log_softmax(z, 1)[rows, labels.numpy()]
    expected = (1 - label_weight) * soft + label_weight * hard
    got = distillation_loss(logits, teacher, labels, temperature=temperature, label_weight=label_weight)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("label_weight", [0.0, 0.3, 1.0])
def test_gradient_is_that_of_the_loss(temperature, label_weight):
    logits, teacher, labels = draw()

    def loss(z):
        return distillation_loss(z, teacher, labels, temperature=temperature, label_weight=label_weight)

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_high_temperature_gradient_matches_logits():
    """PAPER: for large temperatures and zero-mean logits the gradient tends to (z - v) / K."""
    logits, teacher, _ = draw()
    logits = (logits - logits.mean(1, keepdim=True)).requires_grad_()
    centred = teacher - teacher.mean(1, keepdim=True)
    distillation_loss(logits, teacher, None, temperature=1e4, label_weight=0.0).sum().backward()
    torch.testing.assert_close(logits.grad, (logits.detach() - centred) / logits.shape[1], rtol=1e-2, atol=1e-4)


def test_soft_gradient_keeps_its_size_without_labels():
    """temperature² stays when label_weight is 0."""
    sizes = []
    for temperature in (10.0, 100.0):
        logits = draw()[0].requires_grad_()
        distillation_loss(logits, draw()[1], None, temperature=temperature, label_weight=0.0).sum().backward()
        sizes.append(float(logits.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_classes_are_summed_and_examples_kept():
    logits, teacher, labels = draw(batch=5, classes=100)
    loss = distillation_loss(logits, teacher, labels, temperature=1.0, label_weight=0.0)
    assert loss.shape == (5,)
    entropy = -(teacher.exp() * teacher).sum(1)
    assert (loss >= entropy - 1e-12).all()


def test_is_least_where_student_is_teacher():
    _, teacher, _ = draw()
    at_teacher = distillation_loss(teacher, teacher, None, temperature=2.0, label_weight=0.0)
    for seed in range(20):
        other = distillation_loss(draw(seed=seed)[0], teacher, None, temperature=2.0, label_weight=0.0)
        assert (other >= at_teacher - 1e-12).all()


def test_label_weight_one_is_cross_entropy():
    logits, teacher, labels = draw()
    got = distillation_loss(logits, teacher, labels, temperature=7.0, label_weight=1.0)
    torch.testing.assert_close(got, cross_entropy(logits, labels, reduction="none"))


def test_large_gaps_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    loss = distillation_loss(logits, teacher, torch.tensor([2]), temperature=1.0, label_weight=0.5)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


def test_no_gradient_reaches_the_teacher():
    logits, teacher, labels = draw()
    teacher.requires_grad_()
    distillation_loss(logits.requires_grad_(), teacher, labels, temperature=2.0, label_weight=0.5).sum().backward()
    assert teacher.grad is None


def test_soften_undoes_log_softmax():
    logits = draw()[0]
    np.testing.assert_allclose(
        soften(torch.log_softmax(logits, 1), 3.0).numpy(), softmax(logits.numpy() / 3, 1), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.0, "label_weight": 0.5}, "temperature: 0.0 "),
        ({"temperature": -2.0, "label_weight": 0.5}, "temperature: -2.0 "),
        ({"temperature": np.nan, "label_weight": 0.5}, "temperature: nan "),
        ({"temperature": np.inf, "label_weight": 0.5}, "temperature: inf "),
        ({"temperature": 1.0, "label_weight": 1.5}, "label_weight"),
        ({"temperature": 1.0, "label_weight": np.nan}, "label_weight"),
    ],
)
def test_refuses_bad_settings(settings, named):
    logits, teacher, labels = draw()
    with pytest.raises(ValueError, match=named):
        distillation_loss(logits, teacher, labels, **settings)


def test_refuses_missing_labels():
    logits, teacher, _ = draw()
    with pytest.raises(ValueError, match="labels"):
        distillation_loss(logits, teacher, None, temperature=1.0, label_weight=0.1)


@pytest.mark.parametrize("label_weight", [0.3, 1.0])
def test_without_a_label_its_weight_is_none(label_weight):
    logits, teacher, labels = draw()
    labels[[1, 5]] = -1

    def loss(z):
        return distillation_loss(z, teacher, labels, temperature=3.0, label_weight=label_weight)

    soft = distillation_loss(logits, teacher, None, temperature=3.0, label_weight=0.0)
    known = distillation_loss(logits, teacher, labels.clamp_min(0), temperature=3.0, label_weight=label_weight)
    torch.testing.assert_close(loss(logits), torch.where(labels < 0, soft, known))
    assert torch.autograd.gradcheck(loss, logits.requires_grad_())
