"""Augmentation, a batch at a time on its device: flip, crop, rotate, colour, noise, erase, or a user's function.

Comes in: a batch of examples, and a key for each. Goes out: the batch, changed. The random numbers of an example are a
function of seed, key and pass alone (a hash, no generator), so that whoever shows it again, in whatever batch, shows
the same: a training that goes on after a kill, and a student whose teacher has answered to that very view. Mixup, which
changes labels, too, is in mixup.py.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from raydistill.data.arrays import Normalisation, as_channels_first
from raydistill.errors import ConfigError
from raydistill.training.permutation import GOLDEN, scramble, shift_right
from raydistill.training.seeds import mix_seed

FOR_IMAGES = ("flip", "crop", "rotate", "colour", "erase")
SMALLEST_CROP = 0.75  # side of what is kept, of the image's
LARGEST_ANGLE = math.radians(15)
COLOUR = 0.3  # brightness by up to so many standard deviations, contrast and saturation by up to this share
BANK = 1 << 16  # places where an example's noise may begin
NOISE = 0.1  # standard deviation of the noise, in those of the data
ERASED_SIDES = (0.2, 0.5)  # of the image's, in half of the images
STREAMS = {name: number for number, name in enumerate(("flip", "crop", "rotate", "colour", "noise", "erase", "mixup"))}
FUNCTION_STREAM = 1000
STEP = 0x2545F4914F6CDD1D  # an odd 64-bit constant

Function = Callable[[Tensor, torch.Generator], Tensor]
"""A user's own: (inputs (B, ...) in the stored type or float32, generator on their device) -> inputs (B, ...)."""


@dataclass(frozen=True)
class Augment:
    """What is done to batches. names: of the built-in ones, and package.module:function; normalisation: of the data."""

    names: tuple[str, ...]
    normalisation: Normalisation
    seed: int

    def __call__(self, inputs: Tensor, keys: Tensor, turn: int) -> Tensor:
        """Inputs (B, ...) of the given keys (B,) int64, changed as they are in that turn, the number of a pass or view.

        Flip and erase keep the type; all others give float32. A user's function has a generator that follows from
        seed, turn and the first key.
        """
        draw = Draw(keys.to(inputs.device).long(), self.seed, turn)
        if any(name in FOR_IMAGES for name in self.names):
            images, restore = as_channels_first(inputs)
            inputs = restore(self._change_images(images, draw))
        if "noise" in self.names:
            inputs = add_noise(inputs, draw, self.normalisation)
        for index, function in enumerate(self._functions):
            generator = torch.Generator(inputs.device)
            generator.manual_seed(mix_seed(self.seed, turn, int(keys[0]), FUNCTION_STREAM + index))
            inputs = _check_shape(function(inputs, generator), inputs)
        return inputs

    def _change_images(self, images: Tensor, draw: Draw) -> Tensor:
        if "flip" in self.names:
            images = flip(images, draw)
        if "crop" in self.names or "rotate" in self.names:
            images = turn_and_crop(images, draw, crop="crop" in self.names, rotate="rotate" in self.names)
        if "colour" in self.names:
            images = change_colours(images, draw, self.normalisation)
        return erase(images, draw, self.normalisation) if "erase" in self.names else images

    @cached_property
    def _functions(self) -> list[Function]:
        return [find_function(name) for name in self.names if ":" in name]


@dataclass(frozen=True)
class Draw:
    """Uniform random numbers, each a function of seed, turn, key (B,), stream and place."""

    keys: Tensor
    seed: int
    turn: int

    def __call__(self, name: str, count: int) -> Tensor:
        """Numbers (B, count) from 0 to 1, float32, of one of STREAMS."""
        begin = mix_seed(self.seed, self.turn, STREAMS[name])
        places = torch.arange(count, device=self.keys.device).mul_(STEP)
        mixed = (self.keys * GOLDEN + begin).unsqueeze(1) + places  # 64 bits, and what overflows is lost
        return shift_right(scramble(mixed), 40).float().mul_(2.0**-24)


def flip(images: Tensor, draw: Draw) -> Tensor:
    """Half of the images (B, C, H, W) mirrored, left to right."""
    mirrored = draw("flip", 1)[:, 0] < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def turn_and_crop(images: Tensor, draw: Draw, *, crop: bool, rotate: bool) -> Tensor:
    """A part of each image (B, C, H, W), turned, at the image's size: float32. What enters is zero, as with shifts."""
    height, width = images.shape[-2:]
    angle = _between(draw("rotate", 1)[:, 0], -LARGEST_ANGLE, LARGEST_ANGLE) if rotate else torch.zeros(1)
    where = draw("crop", 3)
    side = _between(where[:, 0], SMALLEST_CROP, 1.0) if crop else torch.ones_like(where[:, 0])
    middle = (2 * where[:, 1:] - 1) * (1 - side).unsqueeze(1)
    cos, sin = (side * function(angle.to(side)) for function in (torch.cos, torch.sin))
    first = torch.stack([cos, -sin * (height / width), middle[:, 0]], dim=1)
    second = torch.stack([sin * (width / height), cos, middle[:, 1]], dim=1)
    grid = affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    return grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def change_colours(images: Tensor, draw: Draw, normalisation: Normalisation) -> Tensor:
    """Brightness and contrast of images (B, C, H, W), of three channels the saturation, too: float32."""
    change = (2 * draw("colour", 3) - 1).mul_(COLOUR).unsqueeze(2).unsqueeze(3)  # (B, 3, 1, 1)
    brightness, contrast, saturation = change.split(1, dim=1)
    images = images.float()
    if images.shape[1] == 3:
        images = images + saturation * (images - images.mean(dim=1, keepdim=True))
    changed: Tensor = images + contrast * (images - normalisation.mean) + brightness * normalisation.std
    return changed


def add_noise(inputs: Tensor, draw: Draw, normalisation: Normalisation) -> Tensor:
    """Inputs (B, ...) with normal noise in every number: float32.

    Each example has a stretch of one long line of random numbers. Measured: numbers of its own take 6 times as long.
    """
    size = inputs[0].numel()
    stretches = draw_normal(BANK + size, draw.seed, inputs.device).unfold(0, size, 1)
    begins = draw("noise", 1)[:, 0].mul(BANK).long()
    return stretches[begins].view(inputs.shape).mul_(NOISE * normalisation.std).add_(inputs)


@lru_cache(maxsize=4)
def draw_normal(count: int, seed: int, device: torch.device) -> Tensor:
    """So many normal random numbers; the same on all devices."""
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(device)


def erase(images: Tensor, draw: Draw, normalisation: Normalisation) -> Tensor:
    """A rectangle of half of the images (B, C, H, W) becomes the data's mean. Source: Zhong et al. 2020."""
    uniform, (height, width) = draw("erase", 5), images.shape[-2:]
    rows = _cover(height, uniform[:, 1], uniform[:, 2]) & (uniform[:, :1] < 0.5)  # (B, H)
    erased = rows.unsqueeze(2) & _cover(width, uniform[:, 3], uniform[:, 4]).unsqueeze(1)
    mean = normalisation.mean if images.is_floating_point() else round(normalisation.mean)
    return images.masked_fill(erased.unsqueeze(1), mean)


def find_function(name: str) -> Function:
    """A user's augmentation, package.module:function. Raises ConfigError for one that cannot be imported."""
    module, _, function = name.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"augment: {name!r} is not allowed: Python's own modules have none; give one that has")
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"augment: {name!r} is not allowed ({error}); give an importable package.module:function"
        ) from None


def check_augment(field: str, names: Sequence[str], input_shape: tuple[int, ...]) -> None:
    """Raise ConfigError for what these examples cannot bear, or what cannot be imported. field: the setting."""
    for name in names:
        if ":" in name:
            find_function(name)
        elif name in FOR_IMAGES and len(input_shape) not in (2, 3):
            raise ConfigError(
                f"{field}: {name!r} is for images (H, W), or with channels, and these examples are {input_shape};"
                " give noise, mixup, or your own package.module:function"
            )


def _cover(length: int, side: Tensor, place: Tensor) -> Tensor:
    """Boolean (B, length): a part of each line, by two uniform numbers (B,)."""
    side = _between(side, *ERASED_SIDES) * length
    begin = place * (length - side)
    middle = torch.arange(length, device=side.device) + 0.5
    return (middle >= begin.unsqueeze(1)) & (middle < (begin + side).unsqueeze(1))


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def _check_shape(changed: Tensor, inputs: Tensor) -> Tensor:
    if not isinstance(changed, Tensor) or changed.shape != inputs.shape:
        found = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise ConfigError(f"augment: your function gives {found} for {tuple(inputs.shape)}; return the same shape")
    return changed
