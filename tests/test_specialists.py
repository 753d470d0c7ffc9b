"""Specialists: sampling, the prior shift, and the two dustbins, against formulas written out."""

import math

import numpy as np
import pytest
import torch
from builders import estimate_gradient, quick_config, run_quick
from scipy.special import logsumexp, softmax
from torch import nn

from raydistill.method.specialists import (
    Group,
    enriched_loss,
    prepare_dustbin,
    prior_shift,
    reduce_logits,
    sample_enriched,
    soft_enriched_loss,
    specialist_log_probs,
)
from raydistill.settings.networks import SpecialistsConfig
from raydistill.stages import specialists as stage
from raydistill.stages.networks import read_training
from raydistill.stages.specialists import choose_shift, train_specialist
from raydistill.training.batches import Batch

MEMBERS = torch.tensor([1, 4, 5])
REST = [0, 2, 3, 6]


def draw(batch=12, classes=7):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    return logits, torch.arange(batch) % classes


def reduce_by_hand(logits, dustbin):
    z = logits.numpy()
    bin_logit = z[:, REST[0]] if dustbin == "single" else logsumexp(z[:, REST], axis=1)
    return np.concatenate([z[:, MEMBERS.numpy()], bin_logit[:, None]], 1)


@pytest.mark.parametrize("dustbin", ["merged", "single", "soft"])
def test_logits_are_the_groups_and_the_dustbins(dustbin):
    logits, _ = draw()
    np.testing.assert_allclose(reduce_logits(logits, Group(MEMBERS, 7, dustbin)), reduce_by_hand(logits, dustbin))


@pytest.mark.parametrize("dustbin", ["merged", "single"])
@pytest.mark.parametrize("shift", [0.0, 2.3, -1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # by operations, by the kernel
def test_loss_is_cross_entropy_with_a_lowered_dustbin(dustbin, shift, dtype):
    logits, labels = draw()
    z = reduce_by_hand(logits, dustbin)
    z[:, -1] -= shift
    column = [MEMBERS.tolist().index(label) if label in MEMBERS else 3 for label in labels.tolist()]
    expected = logsumexp(z, axis=1) - z[np.arange(12), column]
    loss, gradient = enriched_loss(Group(MEMBERS, 7, dustbin), shift)(logits.to(dtype), Batch(labels, logits, labels))
    np.testing.assert_allclose(loss, expected, rtol=2e-6, atol=5e-7)  # the shift itself is float32
    targets = np.eye(4)[column]
    reduced = (softmax(z, axis=1) - targets) / 12  # by the specialist's outputs; the dustbin's is shared out
    np.testing.assert_allclose(gradient[:, MEMBERS], reduced[:, :-1], atol=1e-7)
    lowest = REST[:1] if dustbin == "single" else REST
    shares = softmax(logits.numpy()[:, lowest], axis=1)
    np.testing.assert_allclose(gradient[:, lowest], reduced[:, -1:] * shares, atol=1e-7)


def build_generalist(classes=7):
    """Dropout tells whether it is in evaluation mode."""
    generalist = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, classes, dtype=torch.float64))
    return generalist, torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.0, 2.3, -1.0])
def test_soft_loss_is_cross_entropy_with_labels_inside_and_the_generalist_outside(shift):
    (logits, labels), (generalist, inputs) = draw(), build_generalist()
    layer = generalist[1]
    lowered = np.where(np.isin(np.arange(7), REST), -shift, 0.0)
    z = logits.numpy() + lowered
    g = inputs.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    targets = np.exp(g) * np.isin(np.arange(7), REST)
    targets /= targets.sum(axis=1, keepdims=True)
    hard = np.isin(labels, MEMBERS)
    targets[hard] = np.eye(7)[labels[hard]]
    expected = -(targets * (z - logsumexp(z, axis=1, keepdims=True))).sum(1)
    got, _ = soft_enriched_loss(Group(MEMBERS, 7, "soft"), shift, generalist)(logits, Batch(labels, inputs, labels))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_soft_and_merged_loss_agree_on_the_groups_examples():
    (logits, labels), (generalist, inputs) = draw(), build_generalist()
    batch, own = Batch(labels, inputs, labels), torch.isin(labels, MEMBERS)
    soft = soft_enriched_loss(Group(MEMBERS, 7, "soft"), 1.7, generalist)(logits, batch)[0]
    merged = enriched_loss(Group(MEMBERS, 7), 1.7)(logits, batch)[0]
    torch.testing.assert_close(soft[own], merged[own])


def test_soft_loss_differs_from_merged_by_what_the_specialist_unlearned_of_the_rest_and_spares_the_generalist():
    """On an example outside: the dustbin's loss and the divergence within the rest, up to the targets' entropy."""
    (logits, labels), (generalist, inputs) = draw(), build_generalist()
    labels = torch.tensor(REST * 4)[: len(logits)]
    batch = Batch(labels, inputs, labels)
    soft = soft_enriched_loss(Group(MEMBERS, 7, "soft"), 1.7, generalist)(logits, batch)[0]
    merged = enriched_loss(Group(MEMBERS, 7), 1.7)(logits, batch)[0]
    within, taught = (x[:, REST].log_softmax(1) for x in (logits, generalist(inputs).detach()))
    torch.testing.assert_close(soft, merged - (taught.exp() * within).sum(1))
    assert all(parameter.grad is None for parameter in generalist.parameters())


@pytest.mark.parametrize("dustbin", ["merged", "single", "soft"])
def test_gradient_is_that_of_the_loss(dustbin):
    (logits, labels), (generalist, inputs) = draw(), build_generalist()
    group = Group(MEMBERS, 7, dustbin)
    loss = soft_enriched_loss(group, 1.0, generalist) if dustbin == "soft" else enriched_loss(group, 1.0)
    batch = Batch(labels, inputs, labels)
    expected = estimate_gradient(lambda z: loss(z, batch), logits)
    torch.testing.assert_close(loss(logits, batch)[1], expected, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("label", [1, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_gaps_keep_loss_and_gradient_finite(label, dtype):
    logits = torch.zeros(1, 7, dtype=dtype)
    logits[0, 4], labels = 1e4, torch.tensor([label])
    loss, gradient = enriched_loss(Group(MEMBERS, 7), 1.0)(logits, Batch(labels, logits, labels))
    assert torch.isfinite(loss).all()
    assert gradient[0, 4] == pytest.approx(1.0)
    assert torch.isfinite(gradient).all()


def test_merged_specialist_starts_as_the_generalist():
    logits, _ = draw()
    probs = torch.softmax(logits, 1)
    got = specialist_log_probs(logits, Group(MEMBERS, 7)).exp()
    torch.testing.assert_close(got[:, :3], probs[:, MEMBERS])
    torch.testing.assert_close(got[:, 3], probs[:, REST].sum(1))


@pytest.mark.parametrize(("natural", "enriched"), [(0.1, 0.5), (0.02, 0.3), (0.7, 0.5)])
def test_shift_is_bayes_correction(natural, enriched):
    """Posterior odds under enriched sampling = natural odds × ratio of the priors' odds."""
    likelihood_ratio = 3.7
    natural_odds = likelihood_ratio * natural / (1 - natural)
    enriched_odds = likelihood_ratio * enriched / (1 - enriched)
    assert prior_shift(natural, enriched) == pytest.approx(math.log(enriched_odds / natural_odds))


def test_half_and_half_is_the_papers_formula():
    assert prior_shift(0.1, 0.5) == pytest.approx(math.log(0.9 / 0.1))


@pytest.mark.parametrize("share", [0.5, 0.25, 0.8])
def test_epoch_holds_each_group_row_once_and_the_share_of_others(share):
    group_rows, rest_rows = torch.arange(40), torch.arange(100, 400)
    rows = sample_enriched(group_rows, rest_rows, share)(torch.Generator().manual_seed(0))
    own = rows[rows < 100]
    assert sorted(own.tolist()) == list(range(40))
    assert len(own) / len(rows) == pytest.approx(share, abs=0.01)


def test_others_are_drawn_afresh():
    sample = sample_enriched(torch.arange(40), torch.arange(100, 400), 0.5)
    first, second = (set(sample(torch.Generator().manual_seed(seed)).tolist()) for seed in (0, 1))
    assert len(first ^ second) > 10


def test_single_dustbin_starts_as_the_average_class_outside():
    model = nn.Sequential(nn.Linear(3, 7))
    before = model[0].weight.detach().clone()
    prepare_dustbin(model, Group(MEMBERS, 7, "single"))
    torch.testing.assert_close(model[0].weight[0], before[REST].mean(0))
    torch.testing.assert_close(model[0].weight[1:], before[1:])


@pytest.mark.parametrize("dustbin", ["merged", "soft"])
def test_other_dustbins_leave_the_generalist_as_it_is(dustbin):
    model = nn.Sequential(nn.Linear(3, 7))
    before = model[0].weight.detach().clone()
    prepare_dustbin(model, Group(MEMBERS, 7, dustbin))
    torch.testing.assert_close(model[0].weight, before)


def test_training_with_the_shift_gives_natural_probabilities():
    """Enriched data, shifted loss: the fitted constant predictor has the natural class shares, dustbin included."""
    natural = torch.tensor([0.05, 0.1, 0.4, 0.45])
    group = Group(torch.tensor([0, 1]), 4)
    counts = torch.tensor([500, 1000, 706, 794])  # half group, half rest, natural within each
    labels = torch.repeat_interleave(torch.arange(4), counts)
    logits = torch.zeros(4, requires_grad=True, dtype=torch.float64)
    loss = enriched_loss(group, prior_shift(0.15, 0.5))
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10)

    def step():
        optimizer.zero_grad()
        values, gradient = loss(logits.detach().expand(len(labels), 4), Batch(labels, labels, labels))
        logits.grad = gradient.sum(dim=0)
        return values.mean()

    optimizer.step(step)
    got = specialist_log_probs(logits.detach()[None], group).exp()[0]
    torch.testing.assert_close(got, torch.tensor([0.05, 0.1, 0.85], dtype=torch.float64), atol=1e-3, rtol=0)
    assert natural.sum() == pytest.approx(1.0)


def test_without_correction_nothing_is_shifted():
    assert choose_shift(SpecialistsConfig(), 100, 900) == pytest.approx(math.log(0.9 / 0.1))
    assert choose_shift(SpecialistsConfig(prior_correction=False), 100, 900) == 0.0


def test_settings_reach_the_training(tmp_path):
    """The first validation loss differs from setting to setting: of the same start, on the same rows."""
    losses = {}
    for name, changes in {
        "default": {},
        "soft": {"dustbin": "soft"},
        "no correction": {"prior_correction": False},
    }.items():
        run = run_quick(quick_config(tmp_path / name, specialists={"epochs": 1, **changes}), until="groups")
        train_specialist({"run_dir": str(run.path), "index": 0}, lambda _: None)
        losses[name] = read_training(run.specialist_folder(0))["history"][0]["valid_loss"]
    assert np.isfinite(list(losses.values())).all()
    assert len(set(losses.values())) == 3


def test_rows_are_parted_in_blocks_as_at_once(monkeypatch):
    monkeypatch.setattr(stage, "BLOCK_ROWS", 5)
    group, labels = Group(MEMBERS, 7), torch.arange(40) % 7
    rows = torch.arange(3, 40, 2)
    own, others = stage.part_rows(rows, labels, group.place_of_class)
    inside = np.isin(labels[rows].numpy(), MEMBERS.numpy())
    np.testing.assert_array_equal(own, rows.numpy()[inside])
    np.testing.assert_array_equal(others, rows.numpy()[~inside])
    assert sample_enriched(own, others, 0.5)(torch.Generator().manual_seed(0)).dtype == torch.int64


def test_a_held_out_split_may_lack_all_other_classes():
    rows = sample_enriched(torch.arange(5), torch.arange(0), 0.5)(torch.Generator().manual_seed(0))
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]
