"""The student as files that run without the run folder; each export is loaded again and compared.

Comes in: a run folder and a format. Goes out: student.safetensors, student.pt2 (torch.export), student.onnx or
student.int8.onnx, whose batch size is free; beside it config.json (exported.py) and a model card (model_card.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.arrays import Examples, open_examples, read_split
from raydistill.deployment.exported import CONFIG, build_exported, describe_student, is_exported
from raydistill.deployment.loading import load_student
from raydistill.deployment.model_card import is_card, write_card
from raydistill.deployment.onnx_file import check_onnx, open_onnx, write_onnx
from raydistill.deployment.quantise import choose_calibration, describe_cost, measure_cost, quantise
from raydistill.errors import ConfigError, ModelError, RaydistillError, describe_in_line
from raydistill.storage.files import hash_file, read_json, write_aside, write_json, write_tensors, write_text
from raydistill.storage.run_folder import RunFolder

TOLERANCE = 1e-4  # largest difference of a logit between the student and its export
COMPARED = 1000
BATCHES = (1, 2, 7, COMPARED)  # sizes that an export must take
NAMES = {
    "safetensors": "student.safetensors",
    "pt2": "student.pt2",
    "onnx": "student.onnx",
    "int8": "student.int8.onnx",
}

Answer = Callable[[Tensor], Tensor]
"""Batch (N, ...) in the stored type -> logits (N, K)."""


def export_student(
    run_dir: Path | str,
    form: str,
    output: Path | None = None,
    *,
    card: Path | None = None,
    licence: str | None = None,
) -> str:
    """Write the student, load it again, compare logits on 1,000 inputs; returns what to tell the user.

    output: a file, or a folder. Raises RaydistillError if the reloaded student differs by more than 1e-4, ConfigError
    if a package is missing or a file of somebody else's is in the way, and ModelError if the model has no such form.
    """
    run = RunFolder(run_dir)
    config, student = run.read_config(), load_student(run_dir)
    examples = open_examples(run)
    target = choose_target(run, form, output)
    beside = card or target.parent / "README.md"
    check_free(target.parent / CONFIG, beside)
    if form in ("onnx", "int8"):
        check_onnx()
    described = json.loads(json.dumps(describe_student(run, config, examples, student)))  # as it will be read
    told = _WRITERS[form](run, examples, student, target, described)
    write_json(target.parent / CONFIG, {**described, **_find_weights(form, target, described)})
    write_text(beside, write_card(run, described, target.parent, licence))
    return "\n".join(
        [f"{target}: {told}", f"{beside}: the model card" + ("" if licence else " (no licence: --licence)")]
    )


def choose_target(run: RunFolder, form: str, output: Path | None) -> Path:
    """The file to write: in the run's export folder, in the folder that is given, or the file that is given."""
    if output is None:
        return run.path / "export" / NAMES[form]
    output = output.expanduser().absolute()
    return output / NAMES[form] if output.is_dir() or not output.suffix else output


def check_free(config: Path, card: Path) -> None:
    """Raise ConfigError where a file that raydistill did not write would be overwritten."""
    if config.exists() and not is_exported(config.parent):
        raise ConfigError(f"output: {str(config)!r} is not of an export; give a folder of its own to --output")
    if card.exists() and not is_card(card):
        raise ConfigError(f"card: {str(card)!r} is no model card of raydistill's; give another file to --card")


def choose_inputs(run: RunFolder, examples: Examples) -> Tensor:
    """1,000 inputs in the stored type: tune rows, then fit rows, then seeded noise within their range."""
    rows = torch.cat([read_split(run, "tune"), read_split(run, "fit")])[:COMPARED]
    batch = examples.x[rows]
    missing = COMPARED - len(batch)
    if not missing:
        return batch
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((missing, *examples.input_shape), generator=generator, dtype=torch.float64)
    low, high = float(batch.min()), float(batch.max())
    values = low + (high - low) * noise
    return torch.cat([batch, (values if batch.is_floating_point() else values.round()).to(batch.dtype)])


def compare(student: nn.Module, answer: Answer, batch: Tensor) -> str:
    """Largest difference of a logit, for batches of 1, 2, 7 and 1,000, in words. Raises RaydistillError above 1e-4."""
    largest = 0.0
    with torch.inference_mode():
        for size in BATCHES:
            part = batch[:size].clone()
            difference = float((answer(part) - student(part)).abs().max())
            if not difference <= TOLERANCE:
                raise RaydistillError(
                    f"export: reloaded logits differ by {difference:.1e} for a batch of {size}, allowed is"
                    f" {TOLERANCE:.0e}; nothing written"
                )
            largest = max(largest, difference)
    sizes = ", ".join(map(str, BATCHES))
    return f"largest difference of a logit on {len(batch):,} inputs {largest:.1e}, in batches of {sizes}"


def write_checked(
    run: RunFolder, examples: Examples, student: nn.Module, target: Path, write: Callable[[Path, Tensor], Answer]
) -> str:
    """Write a file aside, load it again, compare, and only then let it be there.

    write: (path, batch) -> the reloaded student. Raises as `export_student`.
    """
    batch = choose_inputs(run, examples)
    with write_aside(target) as aside:
        try:
            return compare(student, write(aside, batch), batch)
        except (RaydistillError, OSError):
            raise
        except Exception as error:  # exporters raise anything
            raise ModelError(
                f"export: this model cannot be written as {target.suffix} ({describe_in_line(error)[:300]});"
                " safetensors takes every model"
            ) from error


def _write_safetensors(
    run: RunFolder, examples: Examples, student: nn.Module, target: Path, described: dict[str, Any]
) -> str:
    def write(path: Path, batch: Tensor) -> Answer:
        write_tensors(path, student.state_dict(), {"classes": described["classes"], "model": described["model"]})
        return build_exported(described, path)

    return f"safetensors, {write_checked(run, examples, student, target, write)}"


def _write_pt2(run: RunFolder, examples: Examples, student: nn.Module, target: Path, described: dict[str, Any]) -> str:
    def write(path: Path, batch: Tensor) -> Answer:
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(student, (batch[:2].clone(),), dynamic_shapes=shapes)
        for part in program.graph_module.modules():
            for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # it has paths of this machine
        torch.export.save(program, path, extra_files={CONFIG: json.dumps(described)})
        return torch.export.load(path).module()

    return f"pt2, {write_checked(run, examples, student, target, write)}"


def _write_onnx(run: RunFolder, examples: Examples, student: nn.Module, target: Path, described: dict[str, Any]) -> str:
    def write(path: Path, batch: Tensor) -> Answer:
        write_onnx(student, batch, path, {"raydistill": json.dumps(described)})
        return open_onnx(path)

    return f"onnx, {write_checked(run, examples, student, target, write)}"


def _write_int8(run: RunFolder, examples: Examples, student: nn.Module, target: Path, described: dict[str, Any]) -> str:
    """Its logits differ by what int8 costs, which is measured on the tune split and written beside."""
    small = quantise(student, choose_calibration(run, examples), {"raydistill": json.dumps(described)})
    rows = read_split(run, "tune")
    cost = measure_cost(student, small, examples.x[rows], examples.y[rows])
    with write_aside(target) as aside:
        aside.write_bytes(small.data)
    write_json(target.parent / "int8.json", {"file": target.name, "split": "tune", **cost})
    return f"int8, {describe_cost(cost)}"


def _find_weights(form: str, target: Path, described: dict[str, Any]) -> dict[str, str]:
    """Name and checksum of the weights: those just written, or those of an earlier export of the same student."""
    if form == "safetensors":
        return {"weights": target.name, "sha256": hash_file(target)}
    try:
        before = read_json(target.parent / CONFIG)
        same = before | described == before and hash_file(target.parent / before["weights"]) == before["sha256"]
        return {name: before[name] for name in ("weights", "sha256")} if same else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


_WRITERS: dict[str, Callable[[RunFolder, Examples, nn.Module, Path, dict[str, Any]], str]] = {
    "safetensors": _write_safetensors,
    "pt2": _write_pt2,
    "onnx": _write_onnx,
    "int8": _write_int8,
}
