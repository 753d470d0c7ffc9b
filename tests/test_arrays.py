"""Mapped arrays: shifts of images and normalisation, against numpy."""

import numpy as np
import pytest
import torch
from builders import make_examples

from raydistill.data.arrays import draw_shifts, measure_normalisation, shift_images

EXAMPLES = make_examples()


@pytest.mark.parametrize("shape", [(9, 7), (3, 9, 7), (9, 7, 3)])
def test_shifts_are_numpys_roll_with_zeros(shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 255, (20, *shape), generator=generator, dtype=torch.uint8)
    shifts = draw_shifts(20, 2, torch.Generator().manual_seed(1))
    assert set(shifts.flatten().tolist()) == {-2, -1, 0, 1, 2}
    shifted = shift_images(images, shifts)
    axis = 1 if shape == (3, 9, 7) else 0
    for image, got, down, right in zip(images.numpy(), shifted.numpy(), *shifts.t().tolist(), strict=True):
        expected = np.roll(image, (down, right), (axis, axis + 1))
        edge = [slice(None)] * len(shape)
        for place, offset, size in ((axis, down, 9), (axis + 1, right, 7)):
            edge[place] = slice(0, offset) if offset >= 0 else slice(size + offset, size)
            expected[tuple(edge)] = 0
            edge[place] = slice(None)
        np.testing.assert_array_equal(got, expected)
    assert shifted.dtype == torch.uint8


def test_vectors_are_not_shifted():
    vectors = torch.randn(4, 6)
    assert shift_images(vectors, torch.ones(4, 2, dtype=torch.int64)) is vectors


def test_normalisation_is_numpys():
    rows = torch.tensor([0, 5, 9])
    got = measure_normalisation(EXAMPLES.x, rows, block=2)
    assert got.mean == pytest.approx(EXAMPLES.x[rows].numpy().mean(), rel=1e-5)
    assert got.std == pytest.approx(EXAMPLES.x[rows].numpy().std(), rel=1e-5)
    assert measure_normalisation(torch.ones(3, 2), torch.arange(3)).std == 1.0
