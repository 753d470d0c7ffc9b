"""Stages ensemble and targets: whether the specialists pay, and the cache of soft targets for every training row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from raydistill.config import Config
from raydistill.data.arrays import Examples, read_split
from raydistill.files import write_json
from raydistill.run_folder import RunFolder
from raydistill.stages.context import Context
from raydistill.stages.groups import read_group, read_members
from raydistill.stages.networks import build_generalist, load_weights
from raydistill.targets import SoftTargets, TargetsWriter, measure_kl_lost
from raydistill.teacher import Ensemble, TeacherOutput
from raydistill.workers import choose_device

BLOCK_BYTES = 2**28  # of float32 log-probabilities in memory at once
REPORTED_TEMPERATURES = (1.0, 2.0, 5.0, 20.0)
CHECKED_ROWS = 2000  # on which the KL lost by storing is measured
TEACHERS = ("ensemble", "generalist")


def load_ensemble_from(run: RunFolder, config: Config, examples: Examples) -> Ensemble:
    """Generalist and specialists of a run, ready to be called."""
    device = choose_device()

    def load(folder: Path) -> nn.Module:
        return load_weights(build_generalist(run, config, examples), folder).to(device)

    groups = [read_group(run, config, index) for index in range(len(read_members(run)))]
    specialists = [load(run.specialist_folder(index)) for index in range(len(groups))]
    return Ensemble(load(run.stage_folder("generalist")), specialists, groups, config.ensemble.top_n)


def combine_blocks(ensemble: Ensemble, examples: Examples, rows: Tensor) -> Iterator[TeacherOutput]:
    """Equation 5 over many rows, a block of bounded size at a time."""
    for part in split_blocks(rows, examples):
        yield ensemble.combine(examples.x, part)


def split_blocks(rows: Tensor, examples: Examples) -> Sequence[Tensor]:
    """Row numbers in blocks whose log-probabilities fit into BLOCK_BYTES."""
    blocks: Sequence[Tensor] = rows.split(max(1, BLOCK_BYTES // (4 * examples.classes)))
    return blocks


def evaluate_ensemble(context: Context) -> None:
    """Write ensemble.json: accuracy and loss of generalist and ensemble on the tune split, and the certified gap."""
    run, examples = context.run, context.examples
    ensemble = load_ensemble_from(run, context.config, examples)
    rows = read_split(run, "tune")
    sums, gap, start = torch.zeros(5, dtype=torch.float64), 0.0, 0
    for output in combine_blocks(ensemble, examples, rows):
        labels = examples.y[rows[start : start + len(output.gap)]]
        start += len(labels)
        sums += torch.stack(
            [
                (output.generalist_log_probs.argmax(1) == labels).double().sum(),
                (output.log_probs.argmax(1) == labels).double().sum(),
                -output.generalist_log_probs.gather(1, labels[:, None]).double().sum(),
                -output.log_probs.gather(1, labels[:, None]).double().sum(),
                output.active.double().sum(),
            ]
        )
        gap = max(gap, float(output.gap.max()))
    names = ("generalist_accuracy", "ensemble_accuracy", "generalist_nll", "ensemble_nll", "active_specialists")
    summary = dict(zip(names, (sums / len(rows)).tolist(), strict=True)) | {"largest_gap_nats": gap}
    write_json(run.stage_folder("ensemble") / "ensemble.json", summary)
    context.display.note(
        f"on the tune split: generalist {summary['generalist_accuracy']:.2%},"
        f" ensemble {summary['ensemble_accuracy']:.2%}"
    )


def cache_targets(context: Context) -> None:
    """Write the soft targets of ensemble and generalist for all fit rows, and the KL lost by storing."""
    run, config, examples = context.run, context.config, context.examples
    ensemble, rows = load_ensemble_from(run, config, examples), read_split(run, "fit")
    done, first = 0, None
    with ExitStack() as files:
        writers = {kind: files.enter_context(_open_writer(context, kind, len(rows))) for kind in TEACHERS}
        for output in combine_blocks(ensemble, examples, rows):
            first = first or output
            writers["ensemble"].append(output.log_probs)
            writers["generalist"].append(output.generalist_log_probs)
            done += len(output.gap)
            context.display.update(done / len(rows), f"soft targets of {done:,} of {len(rows):,} examples")
    assert first is not None
    checked = torch.arange(min(CHECKED_ROWS, len(first.gap)))
    lost = measure_kl_lost(open_targets(run, "ensemble"), checked, first.log_probs[checked], REPORTED_TEMPERATURES)
    stored = sum(path.stat().st_size for path in targets_folder(run, "ensemble").iterdir())
    summary = {"kl_lost_nats": lost, "bytes_an_example": stored / len(rows), "checked_examples": len(checked)}
    write_json(run.stage_folder("targets") / "cache.json", summary)


def targets_folder(run: RunFolder, teacher: str) -> Path:
    """Folder of the soft targets of 'ensemble' or 'generalist'."""
    return run.stage_folder("targets") / teacher


def open_targets(run: RunFolder, teacher: str) -> SoftTargets:
    """Map the soft targets of 'ensemble' or 'generalist'; position i belongs to the i-th fit row."""
    return SoftTargets.open(targets_folder(run, teacher))


def _open_writer(context: Context, teacher: str, examples: int) -> TargetsWriter:
    settings = context.config.targets
    return TargetsWriter(
        targets_folder(context.run, teacher),
        examples=examples,
        classes=context.examples.classes,
        dense_classes=settings.dense_classes,
        top_k=settings.top_k,
    )
