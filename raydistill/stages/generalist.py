"""Stage generalist: one network for every class, trained until the confuse split stops improving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.functional import cross_entropy

from raydistill.batches import Batches, shuffle_rows
from raydistill.data.arrays import open_examples, read_split
from raydistill.execution import Beat, Job
from raydistill.files import write_json
from raydistill.run_folder import RunFolder
from raydistill.scoring import score_labels
from raydistill.stages.context import Context
from raydistill.stages.networks import build_generalist, count_passes, network_seed, train_once
from raydistill.training import Progress, train_model
from raydistill.workers import choose_device, share_model, unwrap


def run_generalist(context: Context) -> None:
    """Train the generalist, in this process or data-parallel."""
    job = Job("generalist", f"{__name__}:train_generalist", {"run_dir": str(context.run.path)}, cost=1.0)
    outcome = context.executor.train(job, context.config.generalist.workers, context.display.on_event)
    write_json(context.run.timing_path("generalist"), [vars(outcome)])


def train_generalist(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Job: train and leave the network in the stage's folder. arguments: run_dir."""
    run = RunFolder(Path(arguments["run_dir"]))
    config = run.read_config()
    examples, settings, device = open_examples(run), config.generalist, choose_device()

    def train(checkpoint: Path) -> tuple[nn.Module, Progress]:
        model = share_model(build_generalist(run, config, examples).to(device))
        batches = Batches(
            examples,
            shuffle_rows(read_split(run, "fit")),
            settings.batch_size,
            settings.shift,
            network_seed(config, "generalist"),
            device,
        )
        progress = train_model(
            model,
            batches,
            lambda logits, batch: cross_entropy(logits, batch.labels, reduction="none"),
            settings,
            epochs=count_passes(run, config, "generalist"),
            validate=score_labels(examples, read_split(run, "confuse")),
            patience=settings.patience,
            checkpoint=checkpoint,
            beat=beat,
        )
        return unwrap(model), progress

    record = train_once(run.stage_folder("generalist"), train)
    return {"epochs": len(record["history"])}
