"""Batches of images, taken from all rows and shifted in one go."""

from __future__ import annotations

from typing import Any

from numba import prange

from raydistill.kernels.launch import compile_kernel, compile_part


@compile_kernel
def take_shifted(images: Any, rows: Any, shifts: Any, length: int, step: int, out: Any) -> None:
    """Fill out (B, ...) with images (N, C, numbers) of the given rows (B,), each shifted by its own pixels.

    shifts: (B, 2), down and right; length: numbers in a line of the image; step: from a pixel to the next. What enters
    is zero. A shifted image is the flat one begun elsewhere, but for the columns that enter.
    """
    batch = out.reshape((len(out), images.shape[1], images.shape[2]))
    for i in prange(len(batch)):
        right = min(max(shifts[i, 1] * step, -length), length)
        offset = shifts[i, 0] * length + right
        for c in range(images.shape[1]):
            shifted, image = batch[i, c], images[rows[i], c]
            if offset >= 0:
                shifted[:offset] = 0
                _copy(image[: len(image) - offset], shifted[offset:])
            else:
                _copy(image[-offset:], shifted[:offset])
                shifted[offset:] = 0
            first, entered = (0, right) if right >= 0 else (length + right, -right)
            for start in range(first, len(shifted), length):
                for k in range(entered):
                    shifted[start + k] = 0


@compile_part
def _copy(values: Any, out: Any) -> None:
    """A loop from 0 over slices: that is what the compiler makes vector instructions of."""
    for k in range(len(values)):
        out[k] = values[k]
