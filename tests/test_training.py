"""The loop: learns, resumes to the same weights, stops early, leaves modes and teachers alone."""

import math

import pytest
import torch
from builders import make_examples, settings
from torch import nn
from torch.nn.functional import cross_entropy

from raydistill.batches import Batches, shuffle_rows
from raydistill.data.arrays import Normalisation
from raydistill.models import build_model
from raydistill.scoring import Score, score_labels
from raydistill.training import copy_weights, learning_rate_at, train_model

EXAMPLES = make_examples()
FIT, HELD_OUT = torch.arange(300), torch.arange(300, 400)


def make_model(**options):
    return build_model(
        "mlp", {"hidden": [16], **options}, input_shape=(6,), classes=5, normalisation=Normalisation(0, 1), seed=1
    )


def train(model, checkpoint=None, beat=lambda progress: None, patience=None, validate=None, **changes):
    given = settings(**changes)
    batches = Batches(EXAMPLES, shuffle_rows(FIT), given.batch_size, given.shift, 7, torch.device("cpu"))
    return train_model(
        model,
        batches,
        lambda logits, batch: cross_entropy(logits, batch.labels, reduction="none"),
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


class Killed(Exception):
    pass


@pytest.mark.parametrize("patience", [None, 3])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_resumes_to_the_same_weights(tmp_path, at, patience):
    """Killed in the pass after a checkpoint: bit for bit the weights of an undisturbed training, dropout included."""
    undisturbed = make_model(dropout=0.3)
    expected = train(undisturbed, patience=patience)

    def beat(progress):
        if progress["epoch"] == at and "value" in progress:
            raise Killed

    with pytest.raises(Killed):
        train(make_model(dropout=0.3), tmp_path / "c", beat, patience=patience)
    resumed, heard = make_model(dropout=0.3), []
    got = train(resumed, tmp_path / "c", heard.append, patience=patience)
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
