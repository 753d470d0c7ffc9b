"""Networks: constructors by name, whose last layer gives raw logits.

Comes in: a name, options, the shape of an example, K. Goes out: a `torch.nn.Module` that maps a batch in the stored
type, (B, ...), to logits (B, K). Normalisation is its first layer, so that what ships takes what the user has.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.arrays import Normalisation
from raydistill.errors import ModelError


class Normalise(nn.Module):
    """(x - mean) / std, in float32."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean: Tensor
        self.inverse_std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("inverse_std", torch.tensor(1.0 / std, dtype=torch.float32))

    def forward(self, batch: Tensor) -> Tensor:
        """batch: (B, ...) of any number type; returns float32 of the same shape."""
        return (batch.float() - self.mean) * self.inverse_std


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    hidden: Sequence[int] = (96,),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Module:
    """Fully connected ReLU layers of the given widths; `dropout` after each, `input_dropout` before the first."""
    layers: list[nn.Module] = [nn.Flatten()]
    layers += [nn.Dropout(input_dropout)] if input_dropout else []
    width = math.prod(input_shape)
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))


class ChannelsFirst(nn.Module):
    """Images (B, H, W), (B, H, W, C) or (B, C, H, W) as (B, C, H, W); channels are last where there are 1, 3 or 4."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        if images.dim() == 3:
            return images.unsqueeze(1)
        return images.movedim(-1, 1) if images.shape[-1] in (1, 3, 4) else images


def cnn(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    channels: Sequence[int] = (16, 32),
    hidden: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """3×3 convolutions with ReLU, each halving height and width, then one hidden layer."""
    if len(input_shape) not in (2, 3):
        raise ModelError(f"model: 'cnn' needs images (H, W) or with channels, not {input_shape}; use 'mlp'")
    layers: list[nn.Module] = [ChannelsFirst()]
    with torch.no_grad():
        shape = layers[0](torch.zeros(1, *input_shape)).shape
    width, size = shape[1], (shape[2], shape[3])
    for units in channels:
        layers += [nn.Conv2d(width, units, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        width, size = units, (math.ceil(size[0] / 2), math.ceil(size[1] / 2))
    layers += [nn.Flatten(), nn.Linear(width * size[0] * size[1], hidden), nn.ReLU()]
    layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


def find_constructor(name: str) -> Callable[..., nn.Module]:
    """Constructor by name. Raises ModelError for a name that is neither built in nor importable."""
    built_in: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}
    if name in built_in:
        return built_in[name]
    module, _, function = name.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:  # a run folder's manifest names its model, too
        raise ModelError(f"model: {name!r} is not allowed: Python's own modules have no networks; give one that has")
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"model: {name!r} is not allowed ({error}); give mlp, cnn, or an importable package.module:function"
        ) from None


def build_model(
    name: str,
    options: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...],
    classes: int,
    normalisation: Normalisation,
    seed: int,
) -> nn.Module:
    """Build a network with seeded weights. Raises ModelError if it cannot be built or its output is not (B, K)."""
    constructor = find_constructor(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            network = constructor(input_shape, classes, **options)
        except TypeError as error:
            raise ModelError(f"model: {name!r} does not take options {dict(options)} ({error})") from None
    model = nn.Sequential(OrderedDict(normalise=Normalise(normalisation.mean, normalisation.std), network=network))
    check_output(model, name, input_shape, classes)
    return model


def check_output(model: nn.Module, name: str, input_shape: tuple[int, ...], classes: int) -> None:
    """Raise ModelError if the model does not map (2, ...) to (2, K)."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            shape = tuple(model(torch.zeros(2, *input_shape)).shape)
    except RuntimeError as error:
        raise ModelError(
            f"model: {name!r} fails on an input of shape {input_shape}: {str(error).splitlines()[0]}"
        ) from None
    model.train(training)
    if shape != (2, classes):
        raise ModelError(
            f"model: {name!r} gives {shape} for 2 examples;"
            f" its last layer must give one raw logit for each of {classes} classes"
        )


def find_output_layer(model: nn.Module, classes: int) -> nn.Linear | None:
    """The last linear layer with K outputs, or None."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == classes]
    return layers[-1] if layers else None


def count_parameters(model: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters())
