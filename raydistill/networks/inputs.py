"""The first layers of a network: from examples as they are stored to what the network wants.

Comes in: a batch in the stored type: images (B, H, W), (B, H, W, C) or (B, C, H, W), vectors, or token ids. Goes out:
the same, normalised, resized, with the channels that the network wants. All of it ships with the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from raydistill.data.arrays import Normalisation
from raydistill.errors import ModelError
from raydistill.settings.networks import read_statistics

CHANNEL_COUNTS = (1, 3, 4)  # of images whose last dimension counts channels
INTEGER_SCALE = 255.0

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, of all numbers or of each channel."""


@dataclass(frozen=True)
class Body:
    """A network without its first layers, and what it takes.

    takes: stored examples as they are; images (B, C, H, W) of so many channels; or token ids (B, L). statistics: of its
    pretrained weights, for images from 0 to 1, where it says so. pretrained: whether it has those weights. vocabulary:
    number of token ids. note: what to tell the user of its weights.
    """

    network: nn.Module
    takes: Literal["stored", "images", "tokens"] = "stored"
    channels: int = 3
    statistics: Statistics | None = None
    pretrained: bool = False
    vocabulary: int | None = None
    note: str = ""


class Normalise(nn.Module):
    """(x - mean) / std, in float32; mean and std of all numbers together, or for each channel."""

    def __init__(self, mean: float | Tensor, std: float | Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.inverse_std: Tensor
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("inverse_std", torch.as_tensor(1.0 / std, dtype=torch.float32))

    def forward(self, batch: Tensor) -> Tensor:
        """batch: (B, ...) of any number type; returns float32 of the same shape."""
        return (batch.float() - self.mean) * self.inverse_std


class ChannelsFirst(nn.Module):
    """Images (B, H, W), (B, H, W, C) or (B, C, H, W) as (B, C, H, W); channels are last where there are 1, 3 or 4."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        if images.dim() == 3:
            return images.unsqueeze(1)
        return images.movedim(-1, 1) if images.shape[-1] in CHANNEL_COUNTS else images


class RepeatGrey(nn.Module):
    """Images (B, C, H, W): one channel repeated as often as the network wants channels; others as they are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, channels, H, W)."""
        return images.expand(-1, self.channels, -1, -1) if images.shape[1] == 1 else images


class Resize(nn.Module):
    """Images of any layout at another height and width: bilinear, antialiased where they shrink, layout kept."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = list(size)
        self.channels_first = ChannelsFirst()

    def forward(self, images: Tensor) -> Tensor:
        """images: float (B, H, W), (B, H, W, C) or (B, C, H, W); returns the same of the new size."""
        planes = self.channels_first(images)
        resized = interpolate(planes, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        if images.dim() == 3:
            return resized.squeeze(1)
        return resized.movedim(1, -1) if images.shape[-1] in CHANNEL_COUNTS else resized


def count_channels(input_shape: Sequence[int]) -> int | None:
    """Channels of an image of the stored shape; None for examples that are no images."""
    if len(input_shape) == 2:
        return 1
    if len(input_shape) != 3:
        return None
    return input_shape[-1] if input_shape[-1] in CHANNEL_COUNTS else input_shape[0]


def resize_shape(input_shape: tuple[int, ...], size: Sequence[int] | None, field: str) -> tuple[int, ...]:
    """The stored shape at another height and width. Raises ModelError where examples are no images."""
    if size is None:
        return input_shape
    if count_channels(input_shape) is None:
        raise ModelError(
            f"{field}.input_size: {tuple(size)} is for images (H, W) or with channels, and the examples have shape"
            f" {input_shape}; leave it out"
        )
    if len(input_shape) == 2:
        return tuple(size)
    last = input_shape[-1] in CHANNEL_COUNTS
    return (*size, input_shape[-1]) if last else (input_shape[0], *size)


def check_input(body: Body, name: str, input_shape: tuple[int, ...], dtype: torch.dtype, field: str) -> None:
    """Raise ModelError if the body cannot take examples of that shape, (H, W), (H, W, C), ..., and type."""
    channels = count_channels(input_shape)
    if body.takes == "images" and channels is None:
        raise ModelError(
            f"{field}.model: {name!r} needs images (H, W) or with channels, and the examples have shape {input_shape};"
            " use mlp, or give images"
        )
    if body.takes == "images" and channels not in (1, body.channels):
        raise ModelError(
            f"{field}.model: {name!r} takes images of {body.channels} channels, and the examples of shape"
            f" {input_shape} have {channels}; set its channels by options (in_chans of timm:, num_channels of hf:),"
            " or give images of 1 or 3"
        )
    if body.takes == "tokens" and (len(input_shape) != 1 or dtype.is_floating_point):
        raise ModelError(
            f"{field}.model: {name!r} needs token ids, integers of shape (L,), and the examples are of type"
            f" {str(dtype).removeprefix('torch.')} and shape {input_shape}; tokenise texts first"
        )


def list_first_layers(
    body: Body,
    statistics: Statistics,
    input_shape: tuple[int, ...],
    input_size: Sequence[int] | None,
) -> list[tuple[str, nn.Module]]:
    """The layers before the body, by name. statistics: in the stored unit."""
    if body.takes == "tokens":
        return []
    resize = [("resize", Resize(input_size))] if input_size is not None else []
    if body.takes == "stored":
        return [("normalise", Normalise(*(_lay_out(part, input_shape) for part in statistics))), *resize]
    mean, std = (torch.tensor(part).expand(body.channels).contiguous().reshape(-1, 1, 1) for part in statistics)
    channels = nn.Sequential(ChannelsFirst(), RepeatGrey(body.channels))
    return [("channels", channels), ("normalise", Normalise(mean, std)), *resize]


def choose_statistics(
    normalise: str, body: Body, measured: Normalisation, dtype: torch.dtype, *, filled: bool, field: str
) -> Statistics:
    """What to normalise by, in the stored unit; see ArchitectureConfig.normalise.

    filled: weights from elsewhere will be loaded. Raises ModelError where the model does not say what it wants.
    """
    if normalise == "auto":
        normalise = "model" if (filled or body.pretrained) and body.statistics is not None else "data"
    if normalise == "data":
        return (measured.mean,), (measured.std,)
    if normalise == "none":
        return (0.0,), (1.0,)
    if normalise != "model":
        mean, std = ((0.0,), (1.0,)) if normalise == "unit" else read_statistics(normalise)
    elif body.statistics is not None:
        mean, std = body.statistics
    else:
        raise ModelError(
            f"{field}.normalise: 'model' is not allowed: the model does not say by what to normalise; give data, unit,"
            " none, or MEAN/STD"
        )
    scale = 1.0 if dtype.is_floating_point else INTEGER_SCALE
    return tuple(scale * value for value in mean), tuple(scale * value for value in std)


def check_statistics(statistics: Statistics, body: Body, input_shape: tuple[int, ...], field: str) -> None:
    """Raise ModelError if there are as many as neither 1 nor the channels."""
    wanted = body.channels if body.takes == "images" else count_channels(input_shape)
    if len(statistics[0]) not in (1, wanted):
        raise ModelError(
            f"{field}.normalise: {len(statistics[0])} means are given for {wanted or 'no'} channels;"
            " give one, or one for each channel"
        )


def _lay_out(values: tuple[float, ...], input_shape: tuple[int, ...]) -> float | Tensor:
    """One number, or one for each channel where channels are in the stored shape."""
    if len(values) == 1:
        return values[0]
    last = input_shape[-1] in CHANNEL_COUNTS
    return torch.tensor(values).reshape((-1,) if last else (-1, *(1 for _ in input_shape[1:])))
