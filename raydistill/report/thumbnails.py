"""Examples as small pictures inside the page: PNG files as data: URIs.

Comes in: examples in the stored type, (N, ...). Goes out: URIs, or none where the examples are no images.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from raydistill.storage.files import Array

SMALLEST_SIDE = 4  # of an image; below, it is a table of numbers
PALETTE = 96  # colours of an image with channels: a byte a pixel
BYTE_IMAGES = 32  # whole numbers whose largest is above it are taken to go to 255


def are_images(shape: Sequence[int]) -> bool:
    """Whether examples of this shape can be shown: (H, W), (C, H, W) or (H, W, C)."""
    if len(shape) not in (2, 3):
        return False
    height, width = shape[:2] if len(shape) == 2 or _channels_last(shape) else shape[1:]
    return min(height, width) >= SMALLEST_SIDE


def encode_images(x: Tensor, side: int) -> list[str]:
    """A PNG for each of (N, ...) images, its longer side at most `side` pixels; all share one scale of brightness."""
    if len(x) == 0:
        return []
    values = x.numpy()
    if values.ndim == 4 and not _channels_last(values.shape[1:]):
        values = np.moveaxis(values, 1, -1)
    low, high = measure_range(values)
    scaled = (
        np.clip((values.astype(np.float32) - low) * (255 / max(high - low, 1e-12)), 0, 255).round().astype(np.uint8)
    )
    return [encode_png(_to_image(picture, side)) for picture in scaled]


def measure_range(values: Array) -> tuple[float, float]:
    """Values that become black and white: those of bytes, or the least and the largest that are finite."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if values.dtype.kind in "ui" and low >= 0 and BYTE_IMAGES < high <= 255:
        return 0.0, 255.0
    return low, high


def encode_png(image: Image.Image) -> str:
    """A data: URI."""
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _channels_last(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[-1] in (1, 3, 4)


def _to_image(pixels: Array, side: int) -> Image.Image:
    """uint8 (H, W) or (H, W, C); of other numbers of channels than 3 and 4, their mean."""
    if pixels.ndim == 3 and pixels.shape[-1] not in (3, 4):
        pixels = pixels.mean(axis=-1).round().astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BOX)
    return image if pixels.ndim == 2 else image.convert("RGB").quantize(PALETTE)
