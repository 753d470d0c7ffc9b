"""The `glyphs` data set: 523 letters as classes, many easily confused, from the fonts that matplotlib ships.

Comes in: a face, the number of variants, a frame size, a seed. Goes out: uint8 images, ink bright on black,
in the order of `list_letters`. Each letter is drawn once per face with FreeType, at three times the frame's
resolution, all on one scale and one baseline, so that c/C and e/é/È keep what tells them apart; the variants
are random affine views of that drawing, plus noise.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
import torch
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font, LoadFlags
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

FACES: tuple[str, ...] = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSansMono-BoldOblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
    "STIXGeneralBolIta.ttf",
)
REFERENCE_FACE = "DejaVuSans.ttf"  # its outlines decide which letters are one shape: A, Greek Alpha
MIN_SIZE = 8  # pixels; below it a letter has too few of them to be read

# Measured over all faces and letters: ink lies from 0.38 em below the baseline to 1.02 em above it, for 98 %
# from 0.25 to 0.95, and the widest letter takes 1.4 em.
EM = 0.68  # of the frame
MIDDLE = 0.34  # em above the baseline, where the frame's centre lies
SUPERSAMPLE = 3  # drawing pixels for a pixel of the frame; odd, so that the box filter has a centre

# Strength of the variants, uniform from minus to plus the amount. Measured, 22 variants of each face to train
# on and 8 to test: a 400-128-128-523 network is right in 78 % of the test images after 18 passes, and errs
# within families such as ŠŜ, кĸκ, ëё. With ROTATION 0.14, SHEAR 0.15 and NOISE 0.12: 74 %.
SCALE = 0.10  # of the letter's size
SHIFT = 0.05  # of the frame: one pixel of 20
ROTATION = 0.12  # radians: 7 degrees
SHEAR = 0.12  # horizontal shift for a unit of height
NOISE = 0.10  # standard deviation, of full ink

BATCH_IMAGES = 2048  # drawn at once: bounds the memory, has no influence on the result


def list_letters() -> list[str]:
    """The classes: K = 523 single characters, by code point.

    Letters (Unicode category L*) that all FACES have, less those with the outline of an earlier one in
    REFERENCE_FACE.
    """
    return list(_find_letters())


def render_face(face: str, *, variants: int, size: int = 20, seed: int) -> NDArray[np.uint8]:
    """Each letter of a face with random size, shift, rotation, shear and noise.

    face: one of FACES. variants: images for each letter, at least 1. size: pixels of a side, at least
    MIN_SIZE. seed: 0 or more. These four determine every byte, whatever the process or number of threads.
    Returns (K, variants, size, size) uint8, letters in the order of list_letters; 0 is paper, 255 full ink.
    Raises ValueError for anything else.
    """
    _check_arguments(face, variants, size, seed)
    rng = np.random.default_rng([seed, FACES.index(face)])
    drawings = _draw_letters(face, size)
    transforms = _draw_transforms(rng, len(drawings), variants)
    images = np.empty((len(drawings), variants, size, size), dtype=np.uint8)
    step = max(1, BATCH_IMAGES // variants)
    for start in range(0, len(drawings), step):
        part = slice(start, start + step)
        views = _sample_views(drawings[part], transforms[part], size)
        images[part] = _add_noise(rng, views).numpy()
    return images


def _check_arguments(face: str, variants: int, size: int, seed: int) -> None:
    if face not in FACES:
        raise ValueError(f"face: {face!r} is not allowed; give one of {', '.join(FACES)}")
    for field, value, least in (("variants", variants, 1), ("size", size, MIN_SIZE), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{field}: {value} is not allowed; give {least} or more")


def _open_face(face: str) -> FT2Font:
    return FT2Font(str(Path(get_data_path(), "fonts", "ttf", face)))


@cache
def _find_letters() -> tuple[str, ...]:
    shared = set.intersection(*(set(_open_face(face).get_charmap()) for face in FACES))
    reference = _open_face(REFERENCE_FACE)
    first_by_outline: dict[tuple[bytes, bytes], str] = {}
    for code in sorted(shared):
        if unicodedata.category(chr(code)).startswith("L"):
            reference.load_char(code, flags=LoadFlags.NO_SCALE)  # exact, unlike bitmaps of some size
            vertices, codes = reference.get_path()
            first_by_outline.setdefault((vertices.tobytes(), codes.tobytes()), chr(code))
    return tuple(first_by_outline.values())


def _draw_letters(face: str, size: int) -> Tensor:
    """(K, 1, side, side) ink from 0 to 1, side = SUPERSAMPLE · size; blurred to the frame's resolution."""
    font = _open_face(face)
    side = SUPERSAMPLE * size
    font.set_size(EM * side, 72)  # at 72 dots per inch a point is a pixel
    ink = np.stack([_draw_letter(font, letter, side) for letter in list_letters()])
    drawings = torch.from_numpy(ink).to(torch.float32).div(255).unsqueeze(1)
    return avg_pool2d(drawings, SUPERSAMPLE, stride=1, padding=SUPERSAMPLE // 2)


def _draw_letter(font: FT2Font, letter: str, side: int) -> NDArray[np.uint8]:
    """(side, side) uint8: centred across, on the face's baseline upright. What does not fit is cut off."""
    font.set_text(letter, 0.0, flags=LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap(antialiased=True)
    ink = _crop_to_ink(np.asarray(font.get_image(), dtype=np.uint8))
    height_above_baseline = ceil(font.load_char(ord(letter), flags=LoadFlags.NO_HINTING).bbox[3] / 64)
    top = round(side * (0.5 + EM * MIDDLE)) - height_above_baseline
    left = (side - ink.shape[1]) // 2
    margin = side  # wide enough for any letter; the frame is cut out of it
    canvas = np.zeros((3 * side, 3 * side), dtype=np.uint8)
    canvas[margin + top : margin + top + ink.shape[0], margin + left : margin + left + ink.shape[1]] = ink
    return canvas[margin:-margin, margin:-margin]


def _crop_to_ink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw_transforms(rng: np.random.Generator, letters: int, variants: int) -> Tensor:
    """(letters, variants, 2, 3): from a place in the frame, -1 to 1, to the drawing's place shown there."""
    amounts = np.array([SCALE, SHIFT, SHIFT, ROTATION, SHEAR])
    draws = rng.uniform(-amounts, amounts, (letters, variants, 5))
    scale, across, down, angle, shear = np.moveaxis(draws, -1, 0)
    cos, sin, size = np.cos(angle), np.sin(angle), 1 + scale
    rows = [cos, shear * cos - sin, 2 * size * across, sin, shear * sin + cos, 2 * size * down]
    transforms = np.stack(rows, axis=-1).reshape(letters, variants, 2, 3) / size[..., None, None]
    return torch.from_numpy(transforms.astype(np.float32))


def _sample_views(drawings: Tensor, transforms: Tensor, size: int) -> Tensor:
    """drawings (L, 1, side, side), transforms (L, V, 2, 3). Returns (L, V, size, size) ink from 0 to 1.

    The variants of a letter are stacked into one tall grid, so that its drawing is not copied. Coordinates
    are sums of products, element by element: a matrix product may round differently with other numbers of
    threads.
    """
    letters, variants = transforms.shape[:2]
    places = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    matrix = transforms[:, :, :, :, None, None]  # (L, V, 2, 3, 1, 1)
    grid = matrix[:, :, :, 0] * places + (matrix[:, :, :, 1] * places[:, None] + matrix[:, :, :, 2])
    grid = grid.permute(0, 1, 3, 4, 2).reshape(letters, variants * size, size, 2)
    views = grid_sample(drawings, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return views.reshape(letters, variants, size, size)


def _add_noise(rng: np.random.Generator, views: Tensor) -> Tensor:
    noise = torch.from_numpy(rng.standard_normal(tuple(views.shape), dtype=np.float32))
    return views.add(noise, alpha=NOISE).clamp(0, 1).mul(255).round().to(torch.uint8)
