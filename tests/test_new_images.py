"""New images become examples as the training's images did, or as near as arrays let one know."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from raydistill.data.images import CorruptRecord, ImageForm, decode_image
from raydistill.data.new_images import NewImages, find_new_images, find_sides, read_new_images
from raydistill.errors import DataError
from raydistill.storage.files import write_array, write_json


def encode(pixels, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def draw(height, width, channels=3, seed=0):
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Run:
    """As much of a run as images need."""

    def __init__(self, folder, x, form=None):
        self.folder, self.x, self.input_shape = folder, torch.from_numpy(x), x.shape[1:]
        write_array(folder / "fit.npy", np.arange(len(x)))
        if form is not None:
            write_json(folder / "form.json", form)

    def stage_folder(self, name):
        return self.folder


def find(folder, x, form=None):
    run = Run(folder, x, form)
    return find_new_images(run, run)


def test_a_run_of_images_decodes_with_its_own_form(tmp_path):
    form = {"size": 12, "channels": 3, "resize": "pad"}
    images = find(tmp_path, np.zeros((4, 12, 12, 3), np.uint8), form)
    data = encode(draw(20, 30))
    np.testing.assert_array_equal(images.decode(data), decode_image(data, ImageForm(**form)))
    assert images.note == ""


@pytest.mark.parametrize(
    ("x", "peak"),
    [
        (np.full((4, 8, 8), 16, np.uint8), 16),
        (np.full((4, 8, 8), 250, np.uint8), 255),
        (np.full((4, 8, 8), 0.98, np.float32), 1),
        (np.full((4, 8, 8), 40.0, np.float32), 40),
    ],
)
def test_white_is_the_largest_value_of_the_training(tmp_path, x, peak):
    images = find(tmp_path, x)
    white = images.decode(encode(np.full((8, 8), 255, np.uint8)))
    assert white.dtype == x.dtype
    np.testing.assert_allclose(white, peak, rtol=1e-6)
    np.testing.assert_array_equal(images.decode(encode(np.zeros((8, 8), np.uint8))), 0)
    assert f"from 0 to {peak}" in images.note


@pytest.mark.parametrize("shape", [(10, 14), (10, 14, 3), (3, 10, 14), (1, 10, 14), (10, 14, 1)])
def test_every_layout_of_an_image_keeps_its_pixels(tmp_path, shape):
    images = find(tmp_path, np.full((4, *shape), 255, np.uint8))
    pixels = draw(28, 28, 1 if len(shape) == 2 or 1 in shape else 3)  # square, so that it is stretched
    example = images.decode(encode(pixels))
    assert example.shape == shape
    mean = example.mean(axis=(1, 2)) if shape[0] == 3 else example.reshape(140, -1).mean(axis=0)
    np.testing.assert_allclose(mean, pixels.reshape(784, -1).mean(axis=0), atol=4)


def test_channels_come_first_where_the_training_has_them_first(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    first = find(tmp_path, np.full((4, 3, 8, 8), 255, np.uint8)).decode(encode(red))
    assert (first[0] == 255).all()
    assert (first[1:] == 0).all()


def test_examples_that_are_no_images_have_no_form(tmp_path):
    assert find(tmp_path, np.ones((4, 6), np.float32)) is None
    assert find_sides((2, 8, 8)) is None
    assert find_sides((2, 3, 8, 8)) is None


def test_values_that_nobody_knows_are_told(tmp_path):
    with pytest.raises(DataError, match=r"values from -1 to -1.*give arrays"):
        find(tmp_path, np.full((4, 8, 8), -1, np.float32))


def test_the_form_travels_as_json(tmp_path):
    images = find(tmp_path, np.full((4, 8, 8), 16, np.uint8))
    assert read_new_images(images.to_json()) == images
    assert read_new_images(None) is None


def test_what_cannot_be_decoded_is_a_corrupt_record():
    with pytest.raises(CorruptRecord):
        NewImages(ImageForm(8, 1, "crop"), (8, 8), "uint8").decode(b"no image")
