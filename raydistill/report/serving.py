"""What it costs to ask a model: milliseconds for one example and for a batch, and the bytes of its weights.

Comes in: a model as a function of a batch, examples. Goes out: plain numbers for report.json. The measurement is short,
and on whatever machine makes the report: it compares models, it is no benchmark.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydistill.training.workers import choose_device

BATCH = 256
SECONDS, FEWEST, MOST = 0.04, 5, 50  # of a measurement: the time it takes, and its repetitions
WEIGHTS = "weights.safetensors"


def measure_serving(
    model: Callable[[Tensor], Tensor], x: Tensor, rows: Tensor, folders: Sequence[Path]
) -> dict[str, Any]:
    """The fewest milliseconds that the model took for one example and for a batch, and the bytes of its networks.

    model: (batch in the stored type, on the CPU) -> answers on the CPU; rows: (N,) rows of x to ask about; folders:
    those of its networks.
    """
    batch = x.index_select(0, rows[:BATCH])
    return {
        "weight_bytes": sum((folder / WEIGHTS).stat().st_size for folder in folders),
        "one_ms": 1000 * time_call(lambda: model(batch[:1])),
        "batch_ms": 1000 * time_call(lambda: model(batch)),
        "batch": len(batch),
    }


def time_call(call: Callable[[], object]) -> float:
    """The fewest seconds that a call took, after one that does not count: what others do meanwhile only adds to it."""
    call()
    seconds: list[float] = []
    while len(seconds) < FEWEST or (len(seconds) < MOST and sum(seconds) < SECONDS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def describe_device() -> dict[str, Any]:
    """Where the measurement ran."""
    return {"device": choose_device().type, "threads": torch.get_num_threads()}
