"""The student in 8-bit integers, for CPUs.

Comes in: a network, rows that show the range of its numbers. Goes out: a `Quantised`: the bytes of an ONNX file, and
its answers. Weights are stored by output channel in int8; the inputs of matrix products and convolutions get one fixed
scale each, from the calibration rows, so that an answer does not depend on what else is in its batch (as it would with
ONNX Runtime's dynamic quantisation, which also has no fast convolutions: measured, 8 times the time of float32).
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.data.arrays import Examples, read_split
from raydistill.deployment.onnx_file import check_onnx, open_onnx, write_onnx
from raydistill.errors import ModelError, describe_in_line
from raydistill.storage.files import Array
from raydistill.storage.run_folder import RunFolder

CALIBRATION_ROWS, CALIBRATION_BATCH = 512, 64
LATENCY_BATCHES, REPEATS = (1, 256), 20
ASKED = 1024  # examples at once


@dataclass(frozen=True)
class Quantised:
    """The same network twice, each as a function of a batch in the stored type -> logits (N, K), and as a file.

    answer, data: in int8. full_answer, full_bytes: in float32, in the same runtime.
    """

    answer: Callable[[Tensor], Tensor]
    data: bytes
    full_answer: Callable[[Tensor], Tensor]
    full_bytes: int


def choose_calibration(run: RunFolder, examples: Examples) -> Tensor:
    """Fit rows, evenly over the split. Returns a batch in the stored type."""
    rows = read_split(run, "fit")
    return examples.x[rows[:: max(1, len(rows) // CALIBRATION_ROWS)][:CALIBRATION_ROWS]]


def quantise(model: nn.Module, calibration: Tensor, metadata: Mapping[str, str] | None = None) -> Quantised:
    """Quantise a network that ONNX can say. calibration: (N, ...) in the stored type, such as `choose_calibration`.

    metadata: text that travels in the file. Raises ConfigError where packages are missing, ModelError where it cannot.
    """
    check_onnx("int8")
    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder, "full.onnx"), Path(folder, "int8.onnx")
        try:
            write_onnx(model, calibration, full, metadata)
            _quantise_file(full, small, calibration.numpy())
            return Quantised(open_onnx(small.read_bytes()), small.read_bytes(), open_onnx(full), full.stat().st_size)
        except Exception as error:  # exporters raise anything
            raise ModelError(
                f"int8: this model cannot be made (as ONNX, in integers): {describe_in_line(error)[:200]}; export it as"
                " safetensors or pt2"
            ) from error


def _quantise_file(source: Path, target: Path, calibration: Array) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(np.array_split(calibration, max(1, len(calibration) // CALIBRATION_BATCH)))

        def get_next(self) -> dict[str, Array] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch}

    prepared = source.with_name("prepared.onnx")
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)  # it gives advice at the root logger
    try:
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        logger.setLevel(level)


def measure_cost(student: nn.Module, quantised: Quantised, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """What int8 costs and saves. x: (N, ...), labels: (N,), of the tune split.

    Accuracies, the share of examples where both say the same class, bytes of the ONNX files, and milliseconds for a
    batch of 1 and of 256, median, with as many threads as torch has; the ratio is int8's by float32's, both in ONNX
    Runtime.
    """
    full, small = (ask_all(answer, x).argmax(dim=1) for answer in (student, quantised.answer))
    return {
        "examples": len(labels),
        "accuracy": {"float32": _share(full == labels), "int8": _share(small == labels)},
        "agreement": _share(full == small),
        "bytes": {"float32": quantised.full_bytes, "int8": len(quantised.data)},
        "latency": [measure_latency(quantised, x[:size]) for size in LATENCY_BATCHES],
    }


def ask_all(answer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Logits (N, K) of a batch of any size."""
    with torch.inference_mode():
        return torch.cat([answer(part) for part in x.split(ASKED)])


def measure_latency(quantised: Quantised, batch: Tensor) -> dict[str, float]:
    """Milliseconds for a batch, both ways, and their ratio."""
    milliseconds = {
        "float32": 1000 * _median(quantised.full_answer, batch),
        "int8": 1000 * _median(quantised.answer, batch),
    }
    return {
        "batch": len(batch),
        **{name: round(value, 4) for name, value in milliseconds.items()},
        "ratio": round(milliseconds["int8"] / milliseconds["float32"], 3),
    }


def _median(answer: Callable[[Tensor], Tensor], batch: Tensor) -> float:
    answer(batch)
    return statistics.median(_time_calls(answer, batch))


def _time_calls(answer: Callable[[Tensor], Tensor], batch: Tensor) -> Iterator[float]:
    for _ in range(REPEATS):
        began = time.perf_counter()
        answer(batch)
        yield time.perf_counter() - began


def _share(true: Tensor) -> float:
    return float(true.double().mean())


def describe_cost(cost: dict[str, Any]) -> str:
    """A line for the user."""
    accuracy, size = cost["accuracy"], cost["bytes"]
    times = ", ".join(f"{entry['ratio']:.2f} at batch {entry['batch']}" for entry in cost["latency"])
    return (
        f"tune accuracy {accuracy['float32']:.2%} -> {accuracy['int8']:.2%}"
        f" ({cost['agreement']:.2%} the same class), {size['float32']:,} -> {size['int8']:,} bytes,"
        f" time by float32's {times} ({cost['examples']:,} examples)"
    )
