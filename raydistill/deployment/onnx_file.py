"""A network as an ONNX file, and such a file as a function.

Comes in: a module, or a file. Goes out: a file whose batch size is free, or its logits by ONNX Runtime on the CPU.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.errors import ConfigError


def check_onnx(field: str = "export") -> None:
    """Raise ConfigError where packages are missing. field: the command or setting that needs them."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{field}: onnx needs {error.name}; pip install 'raydistill[onnx]'") from None


def write_onnx(model: nn.Module, batch: Tensor, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model: input x, output logits, both of any batch size. batch: (2 or more, ...) in the stored type.

    metadata: text that travels in the file. Raises whatever the exporter does for a model that it cannot trace.
    """
    with quiet_exporter():
        program = torch.onnx.export(
            model,
            (batch[:2].clone(),),
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # it has paths of this machine
    program.model.metadata_props.update(metadata or {})
    program.save(path)


def open_onnx(source: Path | bytes) -> Callable[[Tensor], Tensor]:
    """A file as a function: batch (N, ...) in the stored type -> logits (N, K), with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; below, it tells which operators it keeps as they are
    given = source if isinstance(source, bytes) else str(source)
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])

    def answer(batch: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run(["logits"], {"x": batch.numpy()})[0]))

    return answer


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep torch's exporter from speaking of itself: its deprecations, and operators of packages that are not here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
