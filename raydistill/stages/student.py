"""Stages search and student: temperature and label weight by Ray Tune, then the student in full, and its controls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.arrays import open_examples, read_split, read_transfer_rows
from raydistill.execution.jobs import Beat, Job, Role, SearchSpace, Trial
from raydistill.method.targets import SoftTargets
from raydistill.networks.models import find_output_layer
from raydistill.settings.config import Config
from raydistill.stages.context import Context
from raydistill.stages.feeding import open_balance, open_by_class, sample_rows
from raydistill.stages.networks import build_student, count_passes, network_seed, train_once
from raydistill.stages.repair import count_classes, find_labelled, repair_biases
from raydistill.stages.roles import STUDENT, list_students, student_teacher
from raydistill.stages.teacher import build_views, open_targets
from raydistill.stages.timings import TrialTimes
from raydistill.stages.warm import count_warm_passes, start_warm
from raydistill.storage.files import read_json, write_json
from raydistill.storage.folders import refresh, remove
from raydistill.storage.run_folder import RunFolder
from raydistill.training.balance import Balance, balance_soft_loss, balanced_label_loss
from raydistill.training.batches import Batch, Batches
from raydistill.training.forward import place_model
from raydistill.training.loop import Progress, train_model
from raydistill.training.losses import Loss, WithGradient
from raydistill.training.orders import LARGE
from raydistill.training.scoring import score_labels
from raydistill.training.workers import choose_device


def run_search(context: Context) -> None:
    """Try pairs of temperature and label weight on a short training; write search.json with all trials and the best."""
    run, config = context.run, context.config
    model = build_student(run, config, context.examples)
    space = SearchSpace(
        config.search.temperature or temperature_range(model, context.examples.classes), config.search.label_weight
    )
    trials = [] if is_point(space) else try_pairs(context, space)
    best = choose_trial(trials) if trials else Trial(space.temperature[0], space.label_weight[0], (), False)
    folder = run.stage_folder("search")
    write_json(
        folder / "search.json",
        {"space": vars(space), "trials": [vars(trial) for trial in trials], "best": vars(best)},
    )
    remove(folder / "trials")
    chosen = f"temperature {best.temperature:.2f}, label weight {best.label_weight:.2f}"
    if trials:
        context.display.note(f"best of {len(trials)} trials: {chosen}, {best.values[-1]:.2%} on the tune split")
    else:
        context.display.note(f"as set: {chosen}")


def is_point(space: SearchSpace) -> bool:
    """Whether there is nothing to search."""
    return all(low == high for low, high in (space.temperature, space.label_weight))


def try_pairs(context: Context, space: SearchSpace) -> list[Trial]:
    """The search itself, by the executor."""
    run, config = context.run, context.config
    settings = config.search
    epochs = count_warm_passes(run, config, f"student/{STUDENT}", count_passes(run, config, "trial"))
    times = TrialTimes(context.display.on_event)
    trials = context.executor.search(
        f"{__name__}:train_trial",
        {"run_dir": run.location},
        space,
        trials=settings.trials,
        epochs=epochs,
        grace_epochs=min(settings.grace_epochs, epochs),
        reduction_factor=settings.reduction_factor,
        seed=config.seed,
        on_event=times,
    )
    write_json(run.timing_path("search"), times.records())
    return trials


def temperature_range(model: nn.Module, classes: int) -> tuple[float, float]:
    """The paper's prior: wide students bear high temperatures, narrow ones want low ones.

    From 1 to 1.5 width / K, between 2 and 20, width being the inputs of the output layer: 4.5 for 30 units and 10
    classes, 20 for 300 (Hinton, Vinyals, Dean 2015, section 3, found 2.5 to 4 best at 30 units, and all above 8 alike
    from 300 on). Many classes want a low one: measured with 96 units and 523 classes, trials of a few passes prefer 5,
    but a student trained in full then learns the teacher's doubts instead of its answers.
    """
    layer = find_output_layer(model, classes)
    width = layer.in_features if layer is not None else 256
    return 1.0, min(max(1.5 * width / classes, 2.0), 20.0)


def choose_trial(trials: list[Trial]) -> Trial:
    """The highest accuracy on the tune split among the trials that ran longest."""
    longest = max(len(trial.values) for trial in trials)
    return max((trial for trial in trials if len(trial.values) == longest), key=lambda trial: trial.values[-1])


def train_trial(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Job: one trial. arguments: run_dir, temperature, label_weight. Its folder replays what was done before a kill."""
    run = RunFolder(arguments["run_dir"])
    config = run.read_config()
    temperature, label_weight = float(arguments["temperature"]), float(arguments["label_weight"])
    folder = run.stage_folder("search") / "trials" / f"{temperature!r}_{label_weight!r}"
    refresh(folder)
    balance = open_balance(run, config, open_examples(run))
    loss = cached_loss(run, student_teacher(config), temperature, label_weight, balance)
    progress = train_student_network(run, config, "trial", STUDENT, loss, folder / "checkpoint.safetensors", beat)[1]
    return {"values": [record["value"] for record in progress.history]}


def run_students(context: Context) -> None:
    """Train the student in full, and its controls with the same seed and steps."""
    run = context.run
    best = read_json(run.stage_folder("search") / "search.json")["best"]
    chosen = {"temperature": best["temperature"], "label_weight": best["label_weight"]}
    jobs = [
        Job(name, f"{__name__}:train_student", {"run_dir": run.location, "name": name, **chosen}, 1.0, "student")
        for name in list_students(context.config)
    ]
    outcomes = context.executor.run_jobs(jobs, context.display.on_event)
    write_json(run.timing_path("student"), [vars(outcome) for outcome in outcomes])


def train_student(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Job: the student or a control in full. arguments: run_dir, name, temperature, label_weight."""
    run, name = RunFolder(arguments["run_dir"]), arguments["name"]
    config = run.read_config()
    folder, teacher = run.student_folder(name), list_students(config)[name]
    labelled = teacher is None
    balance = open_balance(run, config, open_examples(run))
    loss = balanced_label_loss(balance)
    if teacher is not None:
        loss = cached_loss(run, teacher, arguments["temperature"], arguments["label_weight"], balance)
    patience = config.student.labels_patience if teacher is None else None

    def train(checkpoint: Path) -> tuple[nn.Module, Progress]:
        model, progress = train_student_network(
            run, config, "student", name, loss, checkpoint, beat, patience, labelled
        )
        if config.transfer.repair == "auto":
            examples = open_examples(run)
            learned = count_classes(run, examples, labelled)
            repair_biases(model, folder / "repair.json", run, examples, learned, balance)
        return model, progress

    return {"epochs": len(train_once(folder, train)["history"])}


def train_student_network(
    run: RunFolder,
    config: Config,
    role: Role,
    name: str,
    loss: Loss,
    checkpoint: Path,
    beat: Beat,
    patience: int | None = None,
    labelled: bool = False,
) -> tuple[nn.Module, Progress]:
    """Train a student on the transfer set; without patience, the tune split is only watched.

    name: of the student or control. It starts afresh, or in a run that grows from another, from its namesake there.
    labelled: on its rows with labels alone, with as many steps.
    """
    examples, settings, device = open_examples(run), config.student, choose_device()
    old = f"student/{name}"
    model = start_warm(run, config, build_student(run, config, examples, start=True), old, examples)
    model = place_model(model, settings, device)
    rows, balance = read_transfer_rows(run), open_balance(run, config, examples)
    learned = find_labelled(examples, rows) if labelled else rows
    by_class = open_by_class(run.stage_folder("targets"), "rows")
    batches = Batches(
        examples,
        sample_rows(examples, learned, len(rows), balance, None if by_class is None else by_class[: len(learned)]),
        settings.batch_size,
        0,
        network_seed(config, "student"),
        device,
        build_views(run, config, examples),
    )
    progress = train_model(
        model,
        batches,
        loss,
        settings,
        epochs=count_warm_passes(run, config, old, count_passes(run, config, role)),
        validate=score_labels(examples, read_split(run, "tune"), balance),
        patience=patience,
        checkpoint=checkpoint,
        beat=beat,
    )
    return model, progress


def cached_loss(
    run: RunFolder, teacher: str, temperature: float, label_weight: float, balance: Balance | None = None
) -> Loss:
    """The run's `soft_loss` with the targets of a teacher. A balance is for the labels' part: a teacher has its own."""
    targets, rows = open_targets(run, teacher), read_transfer_rows(run)
    if balance is None or label_weight == 0:
        return soft_loss(targets, rows, temperature, label_weight)
    return balance_soft_loss(soft_loss(targets, rows, temperature, 0.0), balance, label_weight)


def soft_loss(targets: SoftTargets, rows: Tensor, temperature: float, label_weight: float) -> Loss:
    """Distillation loss with cached soft targets for the very view that the student sees.

    rows: (N,), ascending row numbers of the transfer set; the cache has their first views in this order, then the next.
    """
    find = find_places(rows)

    def loss(logits: Tensor, batch: Batch) -> WithGradient:
        positions = find(batch.rows).add_(batch.view * len(rows))
        return targets.distil(logits, positions, batch.labels, temperature, label_weight)

    return loss


def find_places(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of row numbers (B,) that tells where among the ascending rows (N,) they are.

    A table of numbers below LARGE; of others it would take memory by the row, and they are searched for, which takes
    three times as long (23 for 7 µs a batch of 256).
    """
    if len(rows) and int(rows[-1]) < LARGE:
        table = torch.zeros(int(rows[-1]) + 1, dtype=torch.long, device=rows.device)
        table[rows] = torch.arange(len(rows), device=rows.device)
        return lambda wanted: table[wanted]
    return lambda wanted: torch.searchsorted(rows, wanted)
