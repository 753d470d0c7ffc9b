"""Stages generalist and seeds: one network for every class, trained until it stops improving; others of other seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from raydistill.data.arrays import open_examples, read_split
from raydistill.execution.jobs import Beat, Job
from raydistill.stages.context import Context
from raydistill.stages.feeding import build_change, open_balance, open_by_class, sample_rows
from raydistill.stages.given import take_checkpoint
from raydistill.stages.networks import build_generalist, count_passes, network_seed, train_once
from raydistill.stages.warm import count_warm_passes, start_warm
from raydistill.storage.files import write_json
from raydistill.storage.run_folder import RunFolder
from raydistill.training.balance import balanced_label_loss
from raydistill.training.batches import Batches
from raydistill.training.forward import place_model
from raydistill.training.loop import Progress, train_model
from raydistill.training.mixup import mixed_loss
from raydistill.training.scoring import score_labels
from raydistill.training.workers import choose_device, unwrap


def run_generalist(context: Context) -> None:
    """Train the generalist, in this process or data-parallel; or take the one that the user gives."""
    if context.config.generalist.checkpoint is not None:
        take_checkpoint(context)
        return
    outcome = context.executor.train(
        _describe_job(context, 0), context.config.generalist.workers, context.display.on_event
    )
    write_json(context.run.timing_path("generalist"), [vars(outcome)])


def run_seeds(context: Context) -> None:
    """Train the generalists of the other seeds in the pool."""
    jobs = [_describe_job(context, index) for index in range(1, context.config.teacher.seeds)]
    outcomes = context.executor.run_jobs(jobs, context.display.on_event)
    write_json(context.run.timing_path("seeds"), [vars(outcome) for outcome in outcomes])


def _describe_job(context: Context, index: int) -> Job:
    arguments = {"run_dir": context.run.location, "index": index}
    name = "generalist" if index == 0 else f"generalist {index:03d}"
    return Job(name, f"{__name__}:train_generalist", arguments, 1.0, "generalist")


def train_generalist(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Job: train a generalist. arguments: run_dir; index: 0 for the run's own, else that of another seed."""
    run, index = RunFolder(arguments["run_dir"]), int(arguments["index"])
    config = run.read_config()
    examples, settings, device = open_examples(run), config.generalist, choose_device()

    name = "generalist" if index == 0 else f"seeds/{index:03d}"
    seed = network_seed(config, "generalist", index)
    balance, rows = open_balance(run, config, examples), read_split(run, "fit")

    def train(checkpoint: Path) -> tuple[nn.Module, Progress]:
        model = start_warm(run, config, build_generalist(run, config, examples, index, start=True), name, examples)
        model = place_model(model, settings, device)
        batches = Batches(
            examples,
            sample_rows(examples, rows, len(rows), balance, open_by_class(run.stage_folder("splits"), "fit")),
            settings.batch_size,
            settings.shift,
            seed,
            device,
            change=build_change(run, settings, seed),
        )
        progress = train_model(
            model,
            batches,
            mixed_loss(balanced_label_loss(balance)) if "mixup" in settings.augment else balanced_label_loss(balance),
            settings,
            epochs=count_warm_passes(run, config, name, count_passes(run, config, "generalist")),
            validate=score_labels(examples, read_split(run, "confuse"), balance),
            patience=settings.patience,
            checkpoint=checkpoint,
            beat=beat,
        )
        return unwrap(model), progress

    folder = run.stage_folder("generalist") if index == 0 else run.seed_folder(index)
    record = train_once(folder, train)
    return {"epochs": len(record["history"])}
