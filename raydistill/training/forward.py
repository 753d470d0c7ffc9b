"""How a network is laid out and called while it trains: device, memory, type of its products, compiled or not.

Comes in: a network and its settings. Goes out: the same network, ready for train_model, and the function that steps
call. The network keeps its parameters and their names, so that these switches never show in a file of weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raydistill.errors import ModelError
from raydistill.settings.networks import TrainingConfig
from raydistill.training.workers import device_of, share_model

Forward = Callable[[Tensor], Tensor]
"""Inputs (B, ...) in the stored type -> float32 logits (B, K)."""


def place_model(model: nn.Module, settings: TrainingConfig, device: torch.device) -> nn.Module:
    """On its device, with its weights laid out as set, shared with the other workers."""
    model.to(device)
    if settings.channels_last:
        for weight in model.parameters():
            if weight.dim() == 4:  # a convolution whose weights have their channels last gives images of that kind
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return share_model(model)


def choose_forward(model: nn.Module, settings: TrainingConfig) -> Forward:
    """The network as steps call it; with bfloat16, its products are made in that type."""
    network = compile_network(model) if settings.compile else model
    if settings.precision == "float32":
        return network
    kind = device_of(model).type

    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast(kind, dtype=torch.bfloat16):
            logits = network(inputs)
        return logits.float()

    return forward


def compile_network(model: nn.Module) -> Forward:
    """The network by torch.compile. Its first call compiles, and raises ModelError where that does not work.

    Measured: a second network of the same kind in a process is not compiled again, so that a worker of the pool
    compiles once.
    """
    compiled = torch.compile(model)

    def forward(inputs: Tensor) -> Tensor:
        try:
            logits: Tensor = compiled(inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"compile: torch.compile fails here ({reason}); set compile to false, or mend that"
            ) from error
        return logits

    return forward
