"""The loop: learns, resumes to the same weights, stops early, leaves modes and teachers alone."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from builders import make_examples, settings
from torch import nn

from raydistill.data.arrays import Normalisation
from raydistill.networks.models import build_model
from raydistill.training.batches import Batches, shuffle_rows
from raydistill.training.loop import copy_weights, learning_rate_at, limit_norms, list_weights, train_model
from raydistill.training.losses import batch_label_loss
from raydistill.training.scoring import Score, score_labels

EXAMPLES = make_examples()
FIT, HELD_OUT = torch.arange(300), torch.arange(300, 400)


def make_model(**options):
    return build_model(
        "mlp", {"hidden": [16], **options}, input_shape=(6,), classes=5, normalisation=Normalisation(0, 1), seed=1
    )


def label_loss(logits, batch):
    assert logits.dtype == torch.float32
    return batch_label_loss(logits, batch)


def train(model, checkpoint=None, beat=lambda progress: None, patience=None, validate=None, **changes):
    given = settings(**changes)
    batches = Batches(EXAMPLES, shuffle_rows(FIT), given.batch_size, given.shift, 7, torch.device("cpu"))
    return train_model(
        model,
        batches,
        label_loss,
        given,
        epochs=given.epochs,
        validate=validate or score_labels(EXAMPLES, HELD_OUT),
        patience=patience,
        checkpoint=checkpoint,
        beat=beat,
    )


def test_learns():
    model = make_model()
    progress = train(model)
    assert progress.history[-1]["value"] > 0.8
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]


def test_same_seed_same_weights():
    first, second = make_model(dropout=0.3), make_model(dropout=0.3)
    train(first)
    train(second)
    for name, tensor in copy_weights(first).items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_norms_are_limited():
    free, limited = make_model(), make_model()
    train(free)
    score = train(limited, max_norm=0.6).history[-1]
    assert [len(weight) for weight in list_weights(limited)] == [16, 5]
    for unlimited, weight in zip(list_weights(free), list_weights(limited), strict=True):
        assert unlimited.detach().norm(dim=1).max() > 0.9
        assert weight.detach().norm(dim=1).max() == pytest.approx(0.6, abs=1e-6)
    assert score["value"] > 0.8


def test_limit_shortens_long_vectors_only():
    """Against the formula in numpy, for a linear layer, a convolution and one that is not trained."""
    frozen = nn.Linear(4, 4).requires_grad_(False)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(20, 6), frozen)
    before, limit = [weight.detach().clone() for weight in list_weights(model)], 0.55
    assert [weight.shape for weight in before] == [(8, 3, 3, 3), (6, 20)]
    limit_norms(list_weights(model), limit)
    for old, new in zip(before, list_weights(model), strict=True):
        rows = old.flatten(1).double().numpy()
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        short = torch.from_numpy(lengths[:, 0] <= limit)
        assert 0 < short.sum() < len(short)
        assert torch.equal(new[short], old[short])
        np.testing.assert_allclose(new.detach().flatten(1), rows * np.minimum(1, limit / lengths), rtol=1e-6)


def test_bfloat16_learns_as_float32_does():
    plain, mixed = make_model(), make_model()
    expected, got = train(plain), train(mixed, precision="bfloat16")
    assert got.history[-1]["value"] == pytest.approx(expected.history[-1]["value"], abs=0.03)
    assert got.history[-1]["loss"] == pytest.approx(expected.history[-1]["loss"], abs=0.02)
    for name, tensor in copy_weights(mixed).items():
        assert tensor.dtype == torch.float32
        assert name.startswith("normalise") or not torch.equal(tensor, plain.state_dict()[name])


def test_bfloat16_is_for_training_only():
    kinds = []

    class Spy(nn.Linear):
        def forward(self, x):
            logits = super().forward(x)
            kinds.append(logits.dtype)
            return logits

    train(nn.Sequential(Spy(6, 5)), epochs=1, precision="bfloat16")
    assert kinds == [torch.bfloat16] * (300 // 32) + [torch.float32]


@pytest.mark.parametrize("changes", [{}, {"max_norm": 0.6}, {"precision": "bfloat16"}])
def test_data_parallel_wrapping_makes_no_difference(changes):
    """One worker in a process group of its own: the same gradients, hence the same weights."""
    plain, shared = make_model(dropout=0.3), make_model(dropout=0.3)
    train(plain, **changes)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        train(nn.parallel.DistributedDataParallel(shared), **changes)
    finally:
        dist.destroy_process_group()
    for name, tensor in copy_weights(plain).items():
        assert torch.equal(tensor, shared.state_dict()[name])


class Killed(Exception):
    pass


@pytest.mark.parametrize("changes", [{}, {"max_norm": 0.6}, {"precision": "bfloat16"}])
@pytest.mark.parametrize("patience", [None, 3])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_resumes_to_the_same_weights(tmp_path, at, patience, changes):
    """Killed in the pass after a checkpoint: bit for bit the weights of an undisturbed training, dropout included."""
    undisturbed = make_model(dropout=0.3)
    expected = train(undisturbed, patience=patience, **changes)

    def beat(progress):
        if progress["epoch"] == at and "value" in progress:
            raise Killed

    with pytest.raises(Killed):
        train(make_model(dropout=0.3), tmp_path / "c", beat, patience=patience, **changes)
    resumed, heard = make_model(dropout=0.3), []
    got = train(resumed, tmp_path / "c", heard.append, patience=patience, **changes)
    assert got.history == expected.history
    assert [record["epoch"] for record in heard if "value" in record] == list(range(1, 6))
    for name, tensor in copy_weights(undisturbed).items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_stops_early_and_keeps_the_best():
    losses = iter([9.0, 5.0, 3.0, 4.0, 4.0, 1.0])
    weights = []

    def validate(model):
        weights.append(copy_weights(model))
        return Score(next(losses), 0.0)

    model = make_model()
    progress = train(model, patience=2, validate=validate, epochs=20)
    assert (progress.epoch, progress.best_epoch) == (4, 2)
    for name, tensor in weights[2].items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_start_that_is_never_beaten_is_kept():
    model = make_model()
    before, scores = copy_weights(model), iter([1.0, 2.0, 2.0, 2.0])
    progress = train(model, patience=3, validate=lambda _: Score(next(scores), 0.0))
    assert progress.best_epoch == 0
    for name, tensor in before.items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_without_patience_the_last_weights_count():
    weights, scores = [], iter([1.0, 3.0, 2.0])

    def validate(model):
        weights.append(copy_weights(model))
        return Score(next(scores), 0.0)

    model = make_model()
    progress = train(model, validate=validate, epochs=3)
    assert progress.best_epoch == 3
    for name, tensor in weights[-1].items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_every_pass_trains_in_training_mode():
    modes = []

    class Spy(nn.Linear):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    train(nn.Sequential(Spy(6, 5)), epochs=2)
    steps, validations = 300 // 32, 1
    assert modes == ([True] * steps + [False] * validations) * 2


def test_infinite_loss_is_named():
    model = make_model()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train(model)


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [learning_rate_at(step, 200, 1.0) for step in range(200)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[-1] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)
