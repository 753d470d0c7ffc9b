"""Letters as classes: which ones, that the seed decides every byte, and that the images can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raydistill.data.glyphs import FACES, list_letters, render_face

FACE, OTHER_FACE = "DejaVuSerif-Bold.ttf", "STIXGeneralItalic.ttf"
GREEK_ALPHA, CYRILLIC_A = "\u0391", "\u0410"


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return render_face(FACE, variants=8, seed=0)


def measure_ink(images: NDArray[np.uint8], letter: str) -> tuple[int, int]:
    """First and last row of a letter's ink, in the mean of its variants: (top, bottom)."""
    mean = images[list_letters().index(letter)].mean(axis=0)
    rows = np.flatnonzero(mean.max(axis=1) > 40)
    return int(rows[0]), int(rows[-1])


def test_letters_are_523_different_ones_by_code_point() -> None:
    letters = list_letters()
    assert len(letters) == len(set(letters)) == 523
    assert letters == sorted(letters)
    assert {"A", "À", "ж"} <= set(letters)


def test_identical_shapes_keep_the_first_letter_only() -> None:
    assert not {GREEK_ALPHA, CYRILLIC_A} & set(list_letters())


def test_callers_cannot_change_the_letters() -> None:
    list_letters().clear()
    assert len(list_letters()) == 523


def test_faces_are_16_without_the_display_ones() -> None:
    assert len(set(FACES)) == 16
    assert not any("Display" in face for face in FACES)


@pytest.mark.parametrize("size", [8, 20, 33])
def test_images_have_the_promised_shape_and_use_the_range(size: int) -> None:
    images = render_face(FACE, variants=2, size=size, seed=0)
    assert images.shape == (523, 2, size, size)
    assert images.dtype == np.uint8
    assert images.min() == 0
    assert images.max() > 240


@pytest.mark.parametrize("face", FACES)
def test_no_image_is_blank(face: str) -> None:
    ink = render_face(face, variants=1, seed=0).reshape(523, -1)
    assert (np.sort(ink, axis=1)[:, -4:].mean(axis=1) > 80).all()  # noise alone: about 70


def test_ink_stays_off_the_frame(images: NDArray[np.uint8]) -> None:
    edges = [images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]]
    assert np.mean([(edge.max(axis=-1) > 150).mean() for edge in edges]) < 0.01


def test_letters_share_a_scale_and_a_baseline(images: NDArray[np.uint8]) -> None:
    (small_top, small_bottom), (tall_top, tall_bottom) = measure_ink(images, "x"), measure_ink(images, "X")
    assert abs(small_bottom - tall_bottom) <= 1
    assert small_top >= tall_top + 2
    assert measure_ink(images, "p")[1] >= small_bottom + 2
    assert measure_ink(images, "É")[0] <= tall_top - 2


def test_seed_and_face_decide_every_byte(images: NDArray[np.uint8]) -> None:
    render_face(OTHER_FACE, variants=1, seed=3)  # what was rendered before has no influence
    assert np.array_equal(images, render_face(FACE, variants=8, seed=0))
    assert not np.array_equal(images, render_face(FACE, variants=8, seed=1))
    assert not np.array_equal(images, render_face(OTHER_FACE, variants=8, seed=0))


def test_faces_differ_in_their_random_numbers_too(images: NDArray[np.uint8]) -> None:
    other = render_face(OTHER_FACE, variants=8, seed=0)
    corner, other_corner = images[..., :2, :2].ravel(), other[..., :2, :2].ravel()  # paper: noise alone
    assert abs(np.corrcoef(corner, other_corner)[0, 1]) < 0.05


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_threads_has_no_influence(images: NDArray[np.uint8], threads: int) -> None:
    torch.set_num_threads(threads)
    assert np.array_equal(images, render_face(FACE, variants=8, seed=0))


def test_size_of_the_batches_has_no_influence(images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydistill.data.glyphs.BATCH_IMAGES", 100)
    assert np.array_equal(images, render_face(FACE, variants=8, seed=0))


def test_variants_resemble_their_letter(images: NDArray[np.uint8]) -> None:
    flat = images.reshape(523, 8, -1).astype(np.float32)
    centroids, held_out = flat[:, :6].mean(axis=1), flat[:, 6:].reshape(523 * 2, -1)
    distances = (centroids**2).sum(axis=1) - 2 * held_out @ centroids.T
    accuracy = (distances.argmin(axis=1) == np.repeat(np.arange(523), 2)).mean()
    assert 20 / 523 < accuracy < 0.95  # far above chance, but not an easy problem


def test_variants_of_a_letter_differ(images: NDArray[np.uint8]) -> None:
    assert all(len(np.unique(variants.reshape(8, -1), axis=0)) == 8 for variants in images)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"face": "Arial.ttf"}, r"face: 'Arial\.ttf' is not allowed; give one of DejaVuSans\.ttf, "),
        ({"variants": 0}, "variants: 0 is not allowed; give 1 or more"),
        ({"size": 7}, "size: 7 is not allowed; give 8 or more"),
        ({"seed": -1}, "seed: -1 is not allowed; give 0 or more"),
    ],
)
def test_bad_arguments_are_named(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"face": FACE, "variants": 1, "size": 20, "seed": 0, **changed}
    with pytest.raises(ValueError, match=message):
        render_face(**arguments)
