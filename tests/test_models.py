"""Constructors: shapes, seeds, the last layer, and what a misfit gets told."""

import pytest
import torch
from torch import nn

from raydistill.data.arrays import Normalisation
from raydistill.errors import ModelError
from raydistill.networks.inputs import Resize
from raydistill.networks.models import build_model, count_parameters, find_output_layer


def build(name, shape=(8, 8), classes=7, seed=0, **options):
    return build_model(
        name, options, input_shape=shape, classes=classes, normalisation=Normalisation(4.0, 2.0), seed=seed
    )


def narrow(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes - 1))


def broken(input_shape, classes):
    return nn.Linear(3, classes)


@pytest.mark.parametrize("name", ["mlp", "cnn", "raydistill.networks.models:mlp"])
@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 9), (8, 9, 3)])
def test_stored_type_to_logits(name, shape):
    model = build(name, shape)
    assert model(torch.zeros(5, *shape, dtype=torch.uint8)).shape == (5, 7)


def test_channels_last_or_first_is_the_same_image():
    first, last = build("cnn", (3, 8, 9)), build("cnn", (8, 9, 3))
    images = torch.rand(2, 3, 8, 9)
    torch.testing.assert_close(first(images), last(images.movedim(1, -1)))


def test_normalisation_comes_first():
    model = build("mlp")
    torch.testing.assert_close(model[0](torch.tensor([4.0, 8.0])), torch.tensor([0.0, 2.0]))


def test_inputs_are_dropped_only_in_training():
    """A dropped input is 0 after normalisation, and the others are raised, so that the expectation stays."""
    plain, dropped = build("mlp"), build("mlp", input_dropout=0.25)
    images = torch.full((400, 8, 8), 6.0)  # 1 once normalised
    torch.testing.assert_close(dropped.eval()(images), plain(images), rtol=0, atol=0)
    seen = []
    dropped[1][2].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    dropped.train()(images)
    torch.testing.assert_close(seen[0].unique(), torch.tensor([0.0, 4 / 3]))
    assert seen[0].mean() == pytest.approx(1, abs=0.02)  # its standard deviation is 0.0036


def test_seed_decides_and_leaves_torchs_own_alone():
    torch.manual_seed(5)
    first, again, other = (next(build("mlp", seed=seed).parameters()) for seed in (1, 1, 2))
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(drawn, torch.rand(1))


def test_parameters_are_counted():
    assert count_parameters(build("mlp", hidden=[10])) == 64 * 10 + 10 + 10 * 7 + 7


def test_output_layer_is_the_last_with_k_outputs():
    model = build("mlp", hidden=[7, 7])
    assert find_output_layer(model, 7) is model[1][-1]
    assert find_output_layer(model, 99) is None


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_networks_of_another_size_resize_first(name):
    small, resized = (
        build_model(
            name, {}, input_shape=shape, classes=7, normalisation=Normalisation(10, 5), seed=0, input_size=size
        ).eval()
        for shape, size in (((6, 7, 3), None), ((8, 9, 3), (6, 7)))
    )
    images = torch.randint(0, 256, (4, 8, 9, 3), dtype=torch.uint8)
    shrunk = Resize((6, 7))(images.float())
    torch.testing.assert_close(resized(images), small(shrunk))
    assert resized.state_dict().keys() == small.state_dict().keys()


def test_parameters_that_are_shared_count_once():
    first, second = build("mlp", hidden=[10]), build("mlp", hidden=[10])
    assert count_parameters(first, second) == 2 * count_parameters(first)
    second[1][1].weight = first[1][1].weight
    assert count_parameters(first, second) == 2 * count_parameters(first) - 640


@pytest.mark.parametrize(
    ("name", "shape", "options", "told"),
    [
        ("resnet9000", (8, 8), {}, "'resnet9000' is not allowed"),
        ("no.such.module:build", (8, 8), {}, "not allowed"),
        ("raydistill.networks.models:none", (8, 8), {}, "not allowed"),
        ("mlp", (8, 8), {"width": 3}, "does not take options"),
        ("cnn", (64,), {}, "needs images"),
        (f"{__name__}:narrow", (8, 8), {}, r"gives \(2, 6\).*each of 7 classes"),
        (f"{__name__}:broken", (8, 8), {}, "fails on an input"),
    ],
)
def test_misfits_are_one_line(name, shape, options, told):
    with pytest.raises(ModelError, match=told) as raised:
        build(name, shape, **options)
    assert "\n" not in str(raised.value)
