"""This process among the data-parallel workers of a training: its rank, its device, the model that all share."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn


def worker_rank() -> tuple[int, int]:
    """This worker's rank and the number of data-parallel workers."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def choose_device() -> torch.device:
    """The GPU of this process, if it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def share_model(model: nn.Module) -> nn.Module:
    """Wrap for data-parallel training where there are several workers; gradients are averaged over them."""
    return nn.parallel.DistributedDataParallel(model) if worker_rank()[1] > 1 else model


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside data-parallel wrapping."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
