"""New images as examples of a finished run: decoded as its training images were.

Comes in: the data stage's form.json, or, for images that came as arrays, their shape, type and range. Goes out:
`NewImages`, which turns the bytes of an image file into one example.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from raydistill.data.arrays import Examples, read_split
from raydistill.data.images import ImageForm, decode_image
from raydistill.errors import DataError
from raydistill.storage.files import Array, read_json
from raydistill.storage.run_folder import RunFolder

CHANNELS = (1, 3)  # of an image file that is decoded
SAMPLED = 512  # fit rows whose range of numbers is looked at
USUAL = (1.0, 255.0)  # largest values of pixels, by habit


@dataclass(frozen=True)
class NewImages:
    """How the bytes of an image file become an example.

    form: as the training images were decoded, or near to it. shape, dtype: of an example. peak: the value of white; 255
    leaves pixels as they are. note: what to tell the user, where the run does not say how its images were decoded.
    """

    form: ImageForm
    shape: tuple[int, ...]
    dtype: str
    peak: float = 255.0
    note: str = ""

    def decode(self, data: bytes) -> Array:
        """One example in the stored type. Raises CorruptRecord for whatever cannot be decoded."""
        pixels = decode_image(data, self.form)
        height, width = self._sides()
        if pixels.shape[:2] != (height, width):
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        if len(self.shape) == 3:
            pixels = pixels.reshape(height, width, -1)
            pixels = pixels if self._channels_last() else np.moveaxis(pixels, -1, 0)
        if self.peak == 255.0:
            return pixels.astype(self.dtype)
        scaled = pixels.astype(np.float32) * np.float32(self.peak / 255.0)
        return (scaled if np.dtype(self.dtype).kind == "f" else scaled.round()).astype(self.dtype)

    def to_json(self) -> dict[str, Any]:
        """All fields, for a file."""
        return asdict(self)

    def _channels_last(self) -> bool:
        return self.shape[-1] in CHANNELS

    def _sides(self) -> tuple[int, int]:
        sides = self.shape if len(self.shape) == 2 or self._channels_last() else self.shape[1:]
        return sides[0], sides[1]


def read_new_images(value: dict[str, Any] | None) -> NewImages | None:
    """What `to_json` gave, or None. Raises TypeError or KeyError for anything else."""
    if value is None:
        return None
    given = {**value, "form": ImageForm(**value["form"]), "shape": tuple(value["shape"])}
    return NewImages(**given)


def find_new_images(run: RunFolder, examples: Examples) -> NewImages | None:
    """How a run takes image files; None where its examples are no images. Raises DataError where that cannot be told.

    Images that came as arrays are cut to the middle (or stretched, where they are not square), and white becomes the
    largest value that the training has: 1 or 255 where that is near.
    """
    dtype = str(examples.x.dtype).removeprefix("torch.")
    path = run.stage_folder("data") / "form.json"
    if path.exists():
        return NewImages(ImageForm(**read_json(path)), examples.input_shape, dtype)
    sides = find_sides(examples.input_shape)
    if sides is None:
        return None
    (height, width), channels = sides
    form = ImageForm(max(height, width), channels, "crop" if height == width else "stretch")
    peak = _find_peak(run, examples)
    how = "the middle is cut out" if height == width else "stretched"
    note = (
        f"the run's images came as arrays, which say nothing of their making: files are resized to {width}x{height}"
        f" ({how}), {'grey' if channels == 1 else 'RGB'}, with values from 0 to {peak:g}"
    )
    return NewImages(form, examples.input_shape, dtype, peak, note)


def find_sides(shape: tuple[int, ...]) -> tuple[tuple[int, int], int] | None:
    """Height and width, and channels, of examples (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels; else None."""
    if len(shape) == 2:
        return (shape[0], shape[1]), 1
    if len(shape) != 3:
        return None
    if shape[-1] in CHANNELS:
        return (shape[0], shape[1]), shape[-1]
    return ((shape[1], shape[2]), shape[0]) if shape[0] in CHANNELS else None


def _find_peak(run: RunFolder, examples: Examples) -> float:
    sample = examples.x[read_split(run, "fit")[:SAMPLED]]
    low, high = float(sample.min()), float(sample.max())
    if low < 0 or high <= 0:
        raise DataError(
            f"input: the run's examples are arrays with values from {low:g} to {high:g}, so that no one knows what"
            " pixels of an image file are there; give arrays made as the training's were (.npz, .npy, .parquet)"
        )
    return next((usual for usual in USUAL if usual / 2 < high <= usual), high)
