"""The student as a file that runs without raydistill; each export is loaded again and compared.

Comes in: a run folder and a format. Goes out: a safetensors, torch.export (.pt2) or ONNX file, batch size free.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.data.arrays import open_examples, read_split
from raydistill.errors import ConfigError, RaydistillError
from raydistill.files import read_json, read_tensors, remove, write_aside, write_tensors
from raydistill.loading import load_student
from raydistill.run_folder import RunFolder

TOLERANCE = 1e-4  # largest difference of a logit between the student and its export
COMPARED = 1000


def export_student(run_dir: Path | str, form: str, output: Path | None = None) -> str:
    """Write the student, load it again, compare logits on tune examples; returns what to tell the user.

    Raises RaydistillError if the reloaded student differs by more than 1e-4, and ConfigError if a package is missing.
    """
    run = RunFolder(run_dir)
    model = load_student(run_dir)
    examples = open_examples(run)
    batch = examples.x[read_split(run, "tune")[:COMPARED]]
    target = output or run.path / "export" / f"student.{form}"
    with write_aside(target) as aside:
        answer = _EXPORTERS[form](model, batch, aside, run)
    with torch.inference_mode():
        difference = float((answer - model(batch)).abs().max())
    if not difference <= TOLERANCE:
        remove(target)
        raise RaydistillError(
            f"export: reloaded logits differ by {difference:.1e}, allowed is {TOLERANCE:.0e}; nothing written"
        )
    return f"{target}: {form}, largest difference of a logit on {len(batch)} examples {difference:.1e}"


def _export_safetensors(model: nn.Module, batch: Tensor, path: Path, run: RunFolder) -> Tensor:
    classes = read_json(run.stage_folder("data") / "classes.json")
    write_tensors(path, model.state_dict(), {"classes": classes, "settings": run.read_manifest()["settings"]})
    fresh = load_student(run.location)
    fresh.load_state_dict(read_tensors(path)[0])
    with torch.inference_mode():
        return fresh(batch)  # type: ignore[no-any-return]


def _export_pt2(model: nn.Module, batch: Tensor, path: Path, run: RunFolder) -> Tensor:
    program = torch.export.export(model, (batch[:2].clone(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    with torch.inference_mode():
        return torch.export.load(path).module()(batch.clone())  # type: ignore[no-any-return]


def _export_onnx(model: nn.Module, batch: Tensor, path: Path, run: RunFolder) -> Tensor:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"export: onnx needs {error.name}; pip install 'raydistill[onnx]'") from None
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
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.asarray(session.run(["logits"], {"x": batch.numpy()})[0]))


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


_EXPORTERS: dict[str, Callable[[nn.Module, Tensor, Path, RunFolder], Tensor]] = {
    "safetensors": _export_safetensors,
    "pt2": _export_pt2,
    "onnx": _export_onnx,
}
