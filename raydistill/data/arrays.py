"""Mapped examples: one array for all rows, shared by every process of a node, turned into tensors a batch at a time.

Comes in: the data stage's .npy files. Goes out: `Examples`, whose batches are in the stored type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from raydistill.kernels.images import take_shifted
from raydistill.storage.files import map_array, read_json
from raydistill.storage.run_folder import RunFolder

BLOCK_VALUES = 1 << 24  # float64 values in memory at once while measuring


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the fit split's values, over all features together."""

    mean: float
    std: float


@dataclass(frozen=True)
class Examples:
    """All rows of a run. x: (N, ...) in the stored type; y: (N,) int64, -1 for none; both mapped copy-on-write."""

    x: Tensor
    y: Tensor
    class_names: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.x.shape[1:])

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)


def open_examples(run: RunFolder) -> Examples:
    """Map the examples of a run."""
    folder = run.stage_folder("data")
    return Examples(
        x=torch.from_numpy(map_array(folder / "x.npy")),
        y=torch.from_numpy(map_array(folder / "y.npy")),
        class_names=tuple(read_json(folder / "classes.json")),
    )


def read_split(run: RunFolder, name: str) -> Tensor:
    """Row numbers of one split, sorted, mapped."""
    return torch.from_numpy(map_array(run.stage_folder("splits") / f"{name}.npy"))


def read_transfer_rows(run: RunFolder) -> Tensor:
    """Row numbers of the transfer set, sorted, mapped; the targets stage chooses them."""
    return torch.from_numpy(map_array(run.stage_folder("targets") / "rows.npy"))


def read_unlabeled_rows(run: RunFolder) -> Tensor:
    """Row numbers of the examples without labels, which are the last ones."""
    parts = read_json(run.stage_folder("data") / "parts.json")
    first = parts["train"] + parts["test"]
    return torch.arange(first, first + parts["unlabeled"])


def measure_normalisation(x: Tensor, rows: Tensor, block: int = 8192) -> Normalisation:
    """Mean and standard deviation over the given rows, a block at a time (larger than memory is fine)."""
    count, total, squares = 0, 0.0, 0.0
    features = x[:1].numel()
    for part in rows.split(max(1, min(block, BLOCK_VALUES // features))):
        values = x[part].double()
        count += values.numel()
        total += float(values.sum())
        squares += float(values.square().sum())
    mean = total / count
    return Normalisation(mean, max(squares / count - mean**2, 0.0) ** 0.5 or 1.0)


def read_normalisation(folder: Path) -> Normalisation:
    """What the splits stage measured."""
    return Normalisation(**read_json(folder / "normalisation.json"))


def draw_shifts(count: int, pixels: int, generator: torch.Generator) -> Tensor:
    """Random shifts by up to so many pixels, down and right: (count, 2)."""
    return torch.randint(-pixels, pixels + 1, (count, 2), generator=generator)


TakeImages = Callable[[Tensor, Tensor | None], Tensor]
"""(rows (B,), shifts (B, 2) int64 in pixels, down and right, or None) -> a batch in the stored type, on the device."""


def prepare_images(x: Tensor, device: torch.device) -> TakeImages:
    """How batches of x (N, ...) are taken: the given rows, each shifted by its pixels; see `shift_images`.

    Measured: views of x that are made afresh for each batch take 30 µs of it, x[rows] for index_select 60.
    """
    if x.dim() < 3:
        return lambda rows, shifts: x.index_select(0, rows).to(device, non_blocking=True)
    planes, step = _as_planes(x)
    flat, length, shape = planes.flatten(2), planes.shape[3], x.shape[1:]

    def take(rows: Tensor, shifts: Tensor | None) -> Tensor:
        if shifts is None or device.type != "cpu":
            images = x.index_select(0, rows).to(device, non_blocking=True)
            return images if shifts is None else shift_images(images, shifts)
        taken = torch.empty((len(rows), *shape), dtype=x.dtype)
        take_shifted(flat, rows, shifts, length, step, taken)
        return taken

    return take


def shift_images(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift each image by its own whole number of pixels in both directions; what enters is zero.

    images: (B, H, W), (B, C, H, W) or (B, H, W, C). shifts: (B, 2), down and right. Vectors come back as they are.
    """
    if images.dim() < 3:
        return images
    rows, step = _as_planes(images)
    *_, height, width = rows.shape
    border = int(shifts.abs().max()) if len(shifts) else 0
    # In an image with a border, flat, a shifted one begins elsewhere and goes on as long
    padded = pad(rows, (border * step, border * step, border, border + 1))
    line = padded.shape[-1]
    offsets = ((border - shifts) * torch.tensor([line, step])).sum(dim=1).to(images.device)
    windows = padded.flatten(-2).unfold(-1, height * line, 1)  # (B, C, places to begin, numbers)
    shifted: Tensor = windows.movedim(-2, 1)[torch.arange(len(images), device=images.device), offsets]
    return shifted.view(*shifted.shape[:-1], height, line)[..., :width].reshape(images.shape)


def as_channels_first(images: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Images (B, H, W), (B, C, H, W) or (B, H, W, C) as (B, C, H, W), and the way back from there."""
    if images.dim() == 3:
        return images.unsqueeze(1), lambda changed: changed.squeeze(1)
    if images.shape[-1] in (1, 3, 4):
        return images.movedim(-1, 1), lambda changed: changed.movedim(1, -1)
    return images, lambda changed: changed


def _as_planes(images: Tensor) -> tuple[Tensor, int]:
    """Images as (B, C, H, L), and how many numbers lie between a pixel and the next in L: C where channels are last."""
    if images.dim() == 4 and images.shape[-1] in (1, 3, 4):
        return images.flatten(2).unsqueeze(1), images.shape[-1]
    return (images if images.dim() == 4 else images.unsqueeze(1)), 1
