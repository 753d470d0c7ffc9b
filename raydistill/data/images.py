"""Encoded images as arrays of one shape.

Comes in: the bytes of a file that Pillow can read. Goes out: uint8 (H, W) or (H, W, 3), or a `CorruptRecord`.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from raydistill.storage.files import Array

Resize = Literal["crop", "pad", "stretch"]
EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
GREY = ("1", "L", "LA", "La")
LARGEST = 64  # side that is chosen where none is asked for: the built-in networks train on it in minutes
SAMPLED = 128  # images that are looked at to choose size and channels
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


@dataclass(frozen=True)
class FormWish:
    """What is asked for of an `ImageForm`. size, channels: None where the images themselves decide."""

    size: int | None = None
    channels: int | None = None
    resize: Resize = "crop"


def settle_form(wish: FormWish | ImageForm, sample: Iterable[Image.Image]) -> ImageForm:
    """The form that is asked for; what is left open follows from a sample of the images, which is read only then.

    size: the side of square images that are all alike, else the median of the shorter sides, down to a multiple of 8;
    LARGEST at most. channels: 1 where all are grey.
    """
    if isinstance(wish, ImageForm):
        return wish
    size, channels = wish.size, wish.channels
    if size is None or channels is None:
        shown = [(image.size, image.mode) for image in sample]
        size = size or _choose_size([sides for sides, _ in shown])
        grey = bool(shown) and all(mode in GREY or mode.startswith("I;16") for _, mode in shown)
        channels = channels or (1 if grey else 3)
    return ImageForm(size, channels, wish.resize)


def _choose_size(sides: list[tuple[int, int]]) -> int:
    """See `settle_form`. sides: width and height of each image."""
    if not sides:
        return LARGEST
    shorter = int(statistics.median(map(min, sides)))
    alike = len(set(sides)) == 1 and sides[0][0] == sides[0][1]
    return min(shorter if alike else max(8, shorter // 8 * 8), LARGEST)


def peek_images(encoded: Iterable[bytes | None]) -> Iterator[Image.Image]:
    """Size and mode of encoded images, which are not decoded; what is no image is left out."""
    for data in encoded:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(BytesIO(data or b""))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # told when they are decoded
            continue
        yield image


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
                return fit_image(image, form)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise CorruptRecord(describe_problem(error)) from error


def fit_image(image: Image.Image, form: ImageForm) -> Array:
    """A decoded image in the form, upright. Raises CorruptRecord for pixels of other than 8 bits."""
    return _resize(_convert(ImageOps.exif_transpose(image), form.channels), form)


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
