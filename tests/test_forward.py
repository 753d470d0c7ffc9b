"""Switches that help on a GPU, on a processor: the same results within rounding, the same names, the same resuming."""

import os
import shutil

import pytest
import torch
from builders import settings
from torch import nn

from raydistill.data.arrays import Examples, Normalisation
from raydistill.errors import ModelError
from raydistill.networks.models import build_model
from raydistill.storage.files import read_tensors
from raydistill.training.batches import Batches, shuffle_rows
from raydistill.training.forward import place_model
from raydistill.training.loop import copy_weights, train_model
from raydistill.training.losses import batch_label_loss
from raydistill.training.scoring import score_labels

HAS_COMPILER = shutil.which(os.environ.get("CXX", "g++")) is not None
CPU = torch.device("cpu")
FIT, HELD_OUT = torch.arange(240), torch.arange(240, 300)


def make_images() -> Examples:
    """A bright patch whose place tells the class, in noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (300,), generator=generator)
    x = torch.randint(0, 120, (300, 8, 8, 3), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(y.tolist()):
        x[index, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 60
    return Examples(x, y, ("a", "b", "c", "d"))


IMAGES = make_images()


def train(model_name="cnn", checkpoint=None, beat=lambda progress: None, **changes):
    given = settings(epochs=3, **changes)
    options = {"channels": [4, 8], "hidden": 16, "dropout": 0.2} if model_name == "cnn" else {"hidden": [16]}
    model = build_model(
        model_name, options, input_shape=(8, 8, 3), classes=4, normalisation=Normalisation(75, 40), seed=1
    )
    placed = place_model(model, given, CPU)
    batches = Batches(IMAGES, shuffle_rows(FIT), given.batch_size, 0, 7, CPU)
    validate = score_labels(IMAGES, HELD_OUT)
    progress = train_model(
        placed,
        batches,
        batch_label_loss,
        given,
        epochs=3,
        validate=validate,
        patience=3,
        checkpoint=checkpoint,
        beat=beat,
    )
    return placed, progress


def weights_of(model):
    """Names and numbers; what is stored knows no memory layout."""
    return {name: tensor.contiguous() for name, tensor in copy_weights(model).items()}


def test_channels_last_changes_the_layout_and_not_the_results():
    plain, expected = train()
    other, got = train(channels_last=True)
    filters = [weight for weight in other.parameters() if weight.dim() == 4]
    assert [weight.is_contiguous(memory_format=torch.channels_last) for weight in filters] == [True, True]
    assert not filters[1].is_contiguous()
    torch.testing.assert_close(weights_of(other), weights_of(plain), rtol=1e-4, atol=1e-5)
    assert got.history[-1]["value"] == pytest.approx(expected.history[-1]["value"], abs=0.02)
    assert expected.history[-1]["value"] > 0.9


def test_a_network_without_images_does_not_mind_channels_last():
    torch.testing.assert_close(
        weights_of(train("mlp", channels_last=True)[0]), weights_of(train("mlp")[0]), rtol=0, atol=0
    )


class Killed(Exception):
    pass


def test_channels_last_resumes_to_the_same_weights(tmp_path):
    """The optimiser's numbers come back in the layout of their weights: a fused step takes both in memory's order."""
    undisturbed, _ = train(channels_last=True)

    def beat(progress):
        if progress["epoch"] == 1 and "value" in progress:
            raise Killed

    with pytest.raises(Killed):
        train(checkpoint=tmp_path / "c", beat=beat, channels_last=True)
    stored = read_tensors(tmp_path / "c")[0]
    assert all(tensor.is_contiguous() for tensor in stored.values())
    resumed, _ = train(checkpoint=tmp_path / "c", channels_last=True)
    torch.testing.assert_close(weights_of(resumed), weights_of(undisturbed), rtol=0, atol=0)


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")
def test_a_compiled_network_learns_the_same_under_the_same_names():
    from torch._dynamo.utils import counters

    plain, _ = train("mlp")
    before = counters["stats"]["unique_graphs"]
    compiled, _ = train("mlp", compile=True)
    assert counters["stats"]["unique_graphs"] == before + 1
    torch.testing.assert_close(weights_of(compiled), weights_of(plain), rtol=1e-4, atol=1e-5)
    again, _ = train("mlp", compile=True)  # as a worker's next specialist: the same network is not compiled again
    assert counters["stats"]["unique_graphs"] == before + 1
    torch.testing.assert_close(weights_of(again), weights_of(compiled), rtol=0, atol=0)


def test_a_network_that_cannot_be_compiled_is_told_in_one_line(monkeypatch):
    def refuse(model: nn.Module):
        def forward(inputs):
            raise torch._dynamo.exc.TorchDynamoException("InvalidCxxCompiler: no compiler\n\nand a page of advice")

        return forward

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(
        ModelError, match=r"^compile: .*\(InvalidCxxCompiler: no compiler\); set compile to false"
    ) as told:
        train("mlp", compile=True)
    assert "\n" not in str(told.value)
