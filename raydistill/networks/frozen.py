"""Frozen parameters: those that a training leaves as they are, and what follows for its modules and its files.

Comes in: a model, patterns. Goes out: the model with these parameters' requires_grad false. They are in no optimiser;
modules all of whose parameters are frozen stay in evaluation mode, so that statistics of batch norms do not change; and
checkpoints leave them out, because whoever goes on builds the same network first.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from raydistill.errors import ModelError
from raydistill.networks.outputs import list_output_layers

BACKBONE = "backbone"
INNER = ("network.", "model.")  # what stands before the names that a library gives its parameters
SHOWN_NAMES = 3


def freeze_parameters(model: nn.Module, patterns: Sequence[str], classes: int, field: str) -> None:
    """Freeze what the patterns name, in place: 'backbone', a number of layers, or names such as 'layer1.*'.

    Raises ModelError for a pattern that names nothing, and where nothing is left to train.
    """
    for pattern in patterns:
        for parameter in _find_parameters(model, pattern, classes, field):
            parameter.requires_grad = False
    if patterns and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"{field}: {', '.join(patterns)} freezes all parameters; leave some to train, as backbone does"
        )


def is_frozen(model: nn.Module) -> bool:
    """Whether some parameters are frozen."""
    return not all(parameter.requires_grad for parameter in model.parameters())


def rest_frozen(model: nn.Module) -> None:
    """Put modules all of whose parameters are frozen into evaluation mode; to be called after model.train()."""
    if not is_frozen(model):
        return
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without frozen parameters; buffers are there."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def strip_inner(name: str) -> str:
    """A parameter's name as its library has it: without 'network.', and 'model.' of a wrapper."""
    for prefix in INNER:
        name = name.removeprefix(prefix)
    return name


def _find_parameters(model: nn.Module, pattern: str, classes: int, field: str) -> list[nn.Parameter]:
    if pattern == BACKBONE:
        heads = {id(parameter) for layer in list_output_layers(model, classes) for parameter in layer.parameters()}
        if not heads:
            raise ModelError(
                f"{field}: 'backbone' is all but the output layer, and no layer of {classes} outputs is found;"
                " name the parameters, as in 'features.*'"
            )
        return [parameter for parameter in model.parameters() if id(parameter) not in heads]
    if pattern.isdecimal():
        layers = [list(module.parameters(recurse=False)) for module in model.modules()]
        return [parameter for layer in [layer for layer in layers if layer][: int(pattern)] for parameter in layer]
    wanted = strip_inner(pattern) if pattern.startswith(INNER[0]) else pattern
    named = {strip_inner(name): parameter for name, parameter in model.named_parameters()}
    found = [
        parameter for name, parameter in named.items() if fnmatchcase(name, wanted) or fnmatchcase(name, f"{wanted}.*")
    ]
    if not found:
        raise ModelError(
            f"{field}: {pattern!r} names no parameter; give backbone, a number of layers, or names such as"
            f" {', '.join(list(named)[:SHOWN_NAMES])}"
        )
    return found
