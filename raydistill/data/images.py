"""Encoded images as arrays of one shape.

Comes in: the bytes of a file that Pillow can read. Goes out: uint8 (H, W) or (H, W, 3), or a `CorruptRecord`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from raydistill.files import Array

Resize = Literal["crop", "pad", "stretch"]
EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
DRAFT = 2  # a JPEG is decoded at the smallest scale that is still so many times as large as what it becomes


class CorruptRecord(Exception):
    """A record that cannot be used; the message says why, in one line."""


@dataclass(frozen=True)
class ImageForm:
    """What every image becomes.

    size: height and width in pixels. channels: 1 (grey) or 3 (RGB). resize: crop keeps the middle of the longer side,
    pad keeps all with black beside it, stretch keeps all and changes the proportions.
    """

    size: int
    channels: int
    resize: Resize

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of one image."""
        return (self.size, self.size) if self.channels == 1 else (self.size, self.size, self.channels)


def decode_image(data: bytes, form: ImageForm) -> Array:
    """Decode, turn upright as its EXIF data say, and resize. Raises CorruptRecord for whatever cannot be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.open(BytesIO(data)).verify()  # of a PNG, the checksums of all chunks, which decoding leaves out
            with Image.open(BytesIO(data)) as image:
                image.draft(None, (DRAFT * form.size, DRAFT * form.size))
                image.load()
                return _resize(_convert(ImageOps.exif_transpose(image), form.channels), form)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise CorruptRecord(describe_problem(error)) from error


def describe_problem(error: BaseException) -> str:
    """The message of an error in one line, or its type where it has none."""
    text = " ".join(str(error).split())
    return text.partition(" <_io.BytesIO")[0] or type(error).__name__


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """8 bits, grey or RGB; what is transparent lies over white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in EIGHT_BITS:
        raise CorruptRecord(f"pixels of type {image.mode}; allowed are 8 bits a channel, or 16 of grey")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.new("RGBA", above.size, "white")
        image.alpha_composite(above)
    return image.convert("L" if channels == 1 else "RGB")


def _resize(image: Image.Image, form: ImageForm) -> Array:
    size, method = (form.size, form.size), Image.Resampling.BICUBIC
    if image.size != size:
        if form.resize == "crop":
            image = ImageOps.fit(image, size, method)
        elif form.resize == "pad":
            image = ImageOps.pad(image, size, method)
        else:
            image = image.resize(size, method)
    return np.asarray(image)
