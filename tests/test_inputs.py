"""First layers: sizes against Pillow's own filter, statistics against numpy, and what does not fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from raydistill.data.arrays import Normalisation
from raydistill.errors import ModelError
from raydistill.networks.inputs import (
    Body,
    Resize,
    check_input,
    check_statistics,
    choose_statistics,
    count_channels,
    list_first_layers,
    resize_shape,
)

MEASURED = Normalisation(100.0, 40.0)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def first_layers(body, normalise, shape, size=None, dtype=torch.uint8, filled=True):
    statistics = choose_statistics(normalise, body, MEASURED, dtype, filled=filled, field="generalist")
    check_statistics(statistics, body, shape, "generalist")
    return nn.Sequential(*(layer for _, layer in list_first_layers(body, statistics, shape, size)))


@pytest.mark.parametrize("size", [(20, 24), (5, 6), (11, 40)])
def test_sizes_are_those_of_pillow(size):
    image = np.random.default_rng(0).random((14, 15), dtype=np.float32)
    expected = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    resized = Resize(size)(torch.from_numpy(image)[None])
    np.testing.assert_allclose(resized[0], expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_layout_stays(channels):
    images = torch.rand(2, 9, 12, channels)
    last, first = Resize((6, 7))(images), Resize((6, 7))(images.movedim(-1, 1))
    assert last.shape == (2, 6, 7, channels)
    torch.testing.assert_close(last.movedim(-1, 1), first)
    torch.testing.assert_close(Resize((6, 7))(images[..., 0])[:, :, :], last[..., 0])


def test_models_statistics_are_of_images_from_0_to_1_and_by_channel():
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    body = Body(nn.Identity(), "images", statistics=IMAGENET, pretrained=True)
    expected = (images.numpy() / 255 - np.array(IMAGENET[0])) / np.array(IMAGENET[1])
    for normalise in ("auto", "model", "0.485,0.456,0.406/0.229,0.224,0.225"):
        for given, back in ((images, (0, 2, 3, 1)), (images.movedim(-1, 1), (0, 2, 3, 1))):
            shape = tuple(given.shape[1:])
            answered = first_layers(body, normalise, shape)(given).permute(*back)
            np.testing.assert_allclose(answered, expected, atol=1e-5)
    floats = first_layers(body, "model", (4, 5, 3), dtype=torch.float32)(images / 255).permute(0, 2, 3, 1)
    np.testing.assert_allclose(floats, expected, atol=1e-5)


def test_grey_images_are_repeated_before_each_channel_is_normalised():
    grey = torch.randint(0, 256, (2, 4, 5), dtype=torch.uint8)
    answered = first_layers(Body(nn.Identity(), "images", statistics=IMAGENET), "model", (4, 5), (8, 8))(grey)
    assert answered.shape == (2, 3, 8, 8)
    whole = first_layers(Body(nn.Identity(), "images", statistics=IMAGENET), "model", (4, 5))(grey)
    for channel in range(3):
        expected = (grey.numpy() / 255 - IMAGENET[0][channel]) / IMAGENET[1][channel]
        np.testing.assert_allclose(whole[:, channel], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [("data", 0.5), ("auto", 0.5), ("unit", 120 / 255), ("none", 120.0), ("0.4/0.5", (120 / 255 - 0.4) / 0.5)],
)
def test_what_each_word_makes_of_120(normalise, expected):
    for body, shape in ((Body(nn.Identity()), (2, 2)), (Body(nn.Identity(), "images", 1, IMAGENET), (2, 2))):
        layers = first_layers(body, normalise, shape, filled=False)
        assert layers(torch.full((1, 2, 2), 120, dtype=torch.uint8)).flatten()[0] == pytest.approx(expected)


def test_channels_that_are_stored_have_their_own_statistics():
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    answered = first_layers(Body(nn.Identity()), "0.1,0.2,0.3/0.5,0.6,0.7", (4, 5, 3))(images)
    np.testing.assert_allclose(
        answered, (images.numpy() / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7]), atol=1e-5
    )


def test_shapes_are_counted_and_resized():
    assert [count_channels(shape) for shape in ((8, 8), (8, 8, 3), (5, 8, 8), (64,))] == [1, 3, 5, None]
    shapes = [resize_shape(shape, (4, 6), "student") for shape in ((8, 8), (8, 8, 3), (5, 8, 8))]
    assert shapes == [(4, 6), (4, 6, 3), (5, 4, 6)]
    assert resize_shape((64,), None, "student") == (64,)
    with pytest.raises(ModelError, match=r"student\.input_size: \(4, 6\) is for images"):
        resize_shape((64,), (4, 6), "student")


@pytest.mark.parametrize(
    ("body", "shape", "dtype", "told"),
    [
        (Body(nn.Identity(), "images"), (64,), torch.float32, r"needs images \(H, W\)"),
        (Body(nn.Identity(), "images"), (8, 8, 4), torch.uint8, "3 channels, and the examples.*have 4"),
        (Body(nn.Identity(), "tokens"), (12,), torch.float32, "needs token ids.*float32"),
        (Body(nn.Identity(), "tokens"), (8, 8), torch.int32, r"needs token ids.*\(8, 8\)"),
    ],
)
def test_misfits_are_told(body, shape, dtype, told):
    with pytest.raises(ModelError, match=told):
        check_input(body, "lib:net", shape, dtype, "generalist")


def test_statistics_that_are_not_there_or_too_many():
    with pytest.raises(ModelError, match="does not say by what to normalise"):
        first_layers(Body(nn.Identity()), "model", (8, 8))
    with pytest.raises(ModelError, match="2 means are given for 3 channels"):
        first_layers(Body(nn.Identity(), "images"), "0.1,0.2/1,1", (8, 8, 3))
    with pytest.raises(ModelError, match="2 means are given for no channels"):
        first_layers(Body(nn.Identity()), "0.1,0.2/1,1", (64,))
