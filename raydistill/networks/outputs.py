"""Where a network's logits come from: its output layer, which specialists, biases and foreign weights ask for.

Comes in: a network, K. Goes out: its last layers with K outputs.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def find_output_layer(model: nn.Module, classes: int) -> nn.Linear | None:
    """The linear layer whose K outputs are the logits; None where there is none, or the logits come from several."""
    layers = list_output_layers(model, classes)
    return layers[0] if len(layers) == 1 and isinstance(layers[0], nn.Linear) else None


def list_output_layers(model: nn.Module, classes: int) -> list[nn.Module]:
    """The layers with K outputs that the network itself names (as timm's do), else the last such one, if any."""
    for module in model.modules():
        classifier = getattr(module, "get_classifier", None)
        if callable(classifier):
            named: Any = classifier()
            layers: list[nn.Module] = list(named) if isinstance(named, tuple | list | nn.ModuleList) else [named]
            if all(_count_outputs(layer) == classes for layer in layers):
                return layers
    last = [layer for layer in model.modules() if _count_outputs(layer) == classes]
    return last[-1:]


def _count_outputs(layer: object) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) else None
