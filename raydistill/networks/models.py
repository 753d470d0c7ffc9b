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
from raydistill.errors import ModelError, describe_in_line
from raydistill.networks.hugging_face import build_hugging_face
from raydistill.networks.inputs import (
    Body,
    ChannelsFirst,
    check_input,
    check_statistics,
    choose_statistics,
    list_first_layers,
    resize_shape,
)
from raydistill.networks.libraries import build_timm, build_torchvision
from raydistill.networks.outputs import find_output_layer, list_output_layers

__all__ = ["Model", "build_model", "count_parameters", "find_constructor", "find_output_layer", "list_output_layers"]


class Model(nn.Sequential):
    """First layers and a network, in one. Call it with a batch (B, ...) in the stored type for logits (B, K).

    largest_activation: numbers that its largest layer makes of an example; vocabulary: token ids that it knows, if it
    takes such; note: what to tell the user of the weights it starts from.
    """

    largest_activation: int = 1
    vocabulary: int | None = None
    note: str = ""


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
            f"model: {name!r} is not allowed ({error}); give mlp, cnn, timm:NAME, torchvision:NAME, hf:NAME_OR_PATH, or"
            " an importable package.module:function"
        ) from None


def build_model(
    name: str,
    options: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...],
    classes: int,
    normalisation: Normalisation,
    seed: int,
    dtype: torch.dtype = torch.float32,
    input_size: Sequence[int] | None = None,
    normalise: str = "data",
    filled: bool = False,
    start: bool = True,
    field: str = "generalist",
) -> Model:
    """Build a network with seeded weights.

    input_shape, dtype: of an example as it is stored. input_size, normalise: see ArchitectureConfig. filled: whether
    weights from elsewhere will be loaded. start: with pretrained weights where the options ask for them; else it is to
    be filled, and nothing is read. field: the section of settings that errors name.
    Raises ModelError if it cannot be built, cannot take such examples, or its output is not (B, K).
    """
    shape = resize_shape(input_shape, input_size, field)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = build_body(name, options, shape, classes, start=start, field=field)
    check_input(body, name, input_shape, dtype, field)
    chosen = normalise if start else "data" if normalise in ("auto", "model") else normalise  # weights bring theirs
    statistics = choose_statistics(chosen, body, normalisation, dtype, filled=filled, field=field)
    check_statistics(statistics, body, input_shape, field)
    if body.takes == "tokens" and input_size is not None:
        raise ModelError(f"{field}.input_size: {tuple(input_size)} is for images; leave it out for token ids")
    first = list_first_layers(body, statistics, input_shape, input_size)
    model = Model(OrderedDict([*first, ("network", body.network)]))
    model.vocabulary, model.note = body.vocabulary, body.note
    model.largest_activation = check_output(model, name, input_shape, classes, dtype, field)
    return model


def build_body(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, ...], classes: int, *, start: bool, field: str
) -> Body:
    """The network without its first layers. Raises ModelError for a name or options that are not allowed."""
    library = name.partition(":")[0]
    try:
        if library == "hf":
            return build_hugging_face(name, options, input_shape, classes, start=start, field=field)
        if library in LIBRARIES:
            return LIBRARIES[library](name, options, classes, start=start, field=field)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
        raise wrong_options(name, options, error, field) from None
    try:
        return Body(find_constructor(name)(input_shape, classes, **options))
    except TypeError as error:
        raise wrong_options(name, options, error, field) from None


def wrong_options(name: str, options: Mapping[str, Any], error: Exception, field: str) -> ModelError:
    """The error for options that a constructor refuses."""
    return ModelError(
        f"{field}.model: {name!r} does not take options {dict(options)} ({describe_in_line(error)[:300]})"
    )


def check_output(
    model: nn.Module, name: str, input_shape: tuple[int, ...], classes: int, dtype: torch.dtype, field: str
) -> int:
    """Numbers in the largest output of a layer for an example. Raises ModelError if (2, ...) does not give (2, K)."""
    largest = [1]

    def measure(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], output.numel() // 2)

    training, hooks = model.training, [layer.register_forward_hook(measure) for layer in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            output = model(torch.zeros(2, *input_shape, dtype=dtype))
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        raise ModelError(
            f"{field}.model: {name!r} fails on an input of shape {input_shape}: {describe_in_line(error)[:300]}"
            f"{suggest_size(name, input_shape)}"
        ) from None
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    shape = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    if shape != (2, classes):
        raise ModelError(
            f"{field}.model: {name!r} gives {shape} for 2 examples;"
            f" its last layer must give one raw logit for each of {classes} classes"
        )
    return largest[0]


def suggest_size(name: str, input_shape: tuple[int, ...]) -> str:
    """A remedy for inputs that a model of a library cannot take, or nothing for other models."""
    if name.partition(":")[0] not in ("hf", *LIBRARIES):
        return ""
    if len(input_shape) == 1:
        return "; set options of the model, such as max_position_embeddings and pad_token_id, or give shorter examples"
    return "; resize images by input_size, such as 224, or set options of the model, such as img_size or image_size"


def count_parameters(*models: nn.Module) -> int:
    """Number of parameters; those that several models share count once."""
    distinct = {parameter.data_ptr(): parameter.numel() for model in models for parameter in model.parameters()}
    return sum(distinct.values())


LIBRARIES: dict[str, Callable[..., Body]] = {"timm": build_timm, "torchvision": build_torchvision}
