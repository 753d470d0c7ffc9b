"""Predictions and validation: the formula, in any batches, without a trace on the model."""

import weakref

import pytest
import torch
from builders import make_examples
from torch import nn
from torch.nn.functional import cross_entropy

from raydistill.data.arrays import Examples, Normalisation
from raydistill.networks.models import build_model
from raydistill.training.scoring import (
    LARGEST_OUTPUT,
    limit_batch,
    predict_blocks,
    predict_logits,
    score_blocks,
    score_labels,
)

EXAMPLES = make_examples()
HELD_OUT = torch.arange(300, 400)


def make_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5))


def test_prediction_restores_the_mode_and_moves_no_statistics():
    """Student left in evaluation mode, teacher left in training mode: known defects elsewhere."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict_logits(model.train(), EXAMPLES.x)
    assert model.training
    predict_logits(model.eval(), EXAMPLES.x)
    assert not model.training
    for name, tensor in before.items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_prediction_is_the_same_in_any_batches():
    model = make_model()
    rows = torch.tensor([5, 3, 399])
    torch.testing.assert_close(predict_logits(model, EXAMPLES.x, rows, 2), model(EXAMPLES.x[rows]))


class Watched(nn.Module):
    """Counts how many of its answers are in memory at once."""

    def __init__(self):
        super().__init__()
        self.inner, self.answers, self.most = make_model(), [], 0

    def forward(self, inputs):
        logits = self.inner(inputs)
        self.answers.append(weakref.ref(logits))
        self.most = max(self.most, sum(answer() is not None for answer in self.answers))
        return logits


def test_validation_keeps_no_logits_of_earlier_blocks():
    def judge(logits, labels):
        return cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels

    model = Watched()
    score = score_blocks(model, EXAMPLES, HELD_OUT, judge, batch_size=7)
    assert (len(model.answers), model.most) == (15, 2)  # one made, one judged
    losses, right = judge(model.inner(EXAMPLES.x[HELD_OUT]).detach(), EXAMPLES.y[HELD_OUT])
    assert score.loss == pytest.approx(float(losses.mean()), rel=1e-6)
    assert score.accuracy == float(right.double().mean())


def test_labels_score_is_mean_cross_entropy():
    model = make_model()
    score = score_labels(EXAMPLES, HELD_OUT)(model)
    logits, labels = model(EXAMPLES.x[HELD_OUT]).detach(), EXAMPLES.y[HELD_OUT]
    assert score.loss == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)
    assert score.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_batches_shrink_where_a_layer_is_large():
    model = build_model(
        "cnn", {"channels": [8]}, input_shape=(30, 30), classes=4, normalisation=Normalisation(0, 1), seed=0
    )
    assert model.largest_activation == 8 * 30 * 30
    assert limit_batch(model, 4096) == 4096
    model.largest_activation = LARGEST_OUTPUT // 3
    assert limit_batch(model, 4096) == 3
    examples = Examples(torch.rand(10, 30, 30), torch.arange(10) % 4, tuple("abcd"))
    assert [len(block) for block in predict_blocks(model, examples.x, torch.arange(10))] == [3, 3, 3, 1]
    score = score_labels(examples, torch.arange(10))(model)
    logits = model.eval()(examples.x).detach()
    assert score.loss == pytest.approx(float(cross_entropy(logits, examples.y)), rel=1e-5)
    model.largest_activation = 10 * LARGEST_OUTPUT
    assert limit_batch(model, 4096) == 1
