"""Stage specialists: one fine-tuned copy of the generalist for each group, all independent of each other.

With specialists.on_failure: skip, those that failed are left out of all that follows, and skipped.json, a file of the
stage like any other, names them. Removing it, or on_failure: stop, has them tried again, and them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.arrays import Examples, open_examples, read_split
from raydistill.execution.jobs import Beat, Failure, Job, JobFailed, JobOutcome
from raydistill.method.specialists import (
    Group,
    balance_group,
    count_others,
    enriched_loss,
    prepare_dustbin,
    prior_shift,
    sample_enriched,
    sample_enriched_by_weight,
    score_enriched,
    soft_enriched_loss,
)
from raydistill.settings.networks import SpecialistsConfig
from raydistill.stages.context import Context
from raydistill.stages.feeding import build_change, open_balance, open_by_class, weigh_by_class
from raydistill.stages.groups import read_group, read_skipped, skipped_path
from raydistill.stages.growth import decide_specialists, describe_decisions, keep_specialists
from raydistill.stages.networks import build_generalist, count_passes, load_weights, network_seed, train_once
from raydistill.storage.files import read_json, write_json
from raydistill.storage.folders import remove
from raydistill.storage.run_folder import RunFolder
from raydistill.training.balance import Balance
from raydistill.training.batches import Batches, Sampler
from raydistill.training.forward import place_model
from raydistill.training.loop import Progress, train_model
from raydistill.training.mixup import mixed_loss
from raydistill.training.orders import ByClass, count_labels, order_enriched
from raydistill.training.seeds import mix_seed
from raydistill.training.workers import choose_device, unwrap

BLOCK_ROWS = 1 << 16


def run_specialists(context: Context) -> None:
    """Train all specialists: in the pool, or each by several workers.

    Raises JobFailed, after all others, if one fails that may not be skipped.
    """
    run = context.run
    remove(skipped_path(run))
    groups, kept = read_json(run.stage_folder("groups") / "groups.json")["groups"], keep_old(context)
    jobs = [
        Job(
            f"specialist {index:03d}",
            f"{__name__}:train_specialist",
            {"run_dir": run.location, "index": index},
            cost=float(group["examples_an_epoch"]),
            role="specialist",
        )
        for index, group in enumerate(groups)
        if index not in kept
    ]
    try:
        outcomes: Sequence[JobOutcome] = context.executor.run_jobs(
            jobs, context.display.on_event, context.config.specialists.workers
        )
    except JobFailed as failed:
        if context.config.specialists.on_failure == "stop" or not (failed.outcomes or kept):
            failed.add_note("The others are kept: --specialists.on_failure skip goes on without those that failed.")
            raise
        outcomes = failed.outcomes
        skip_failed(context, failed.failures)
    write_json(run.timing_path("specialists"), [vars(outcome) for outcome in outcomes])


def keep_old(context: Context) -> set[int]:
    """Numbers of the specialists that are kept from the run that this one grows from; says what becomes of all."""
    run, config, examples = context.run, context.config, context.examples
    decisions = decide_specialists(run, config, examples)
    if decisions:
        generalist = load_weights(build_generalist(run, config, examples), run.stage_folder("generalist"))
        keep_specialists(run, decisions, generalist, examples)
    for line in describe_decisions(decisions):
        context.display.note(line)
    return {decision.index for decision in decisions if decision.kept}


def skip_failed(context: Context, failures: Sequence[Failure]) -> None:
    """Write skipped.json: which specialists are left out, and why."""
    skipped = [
        {"index": int(failure.job.split()[1]), "attempts": failure.attempts, "reason": failure.reason}
        for failure in failures
    ]
    write_json(skipped_path(context.run), skipped)
    for failure in failures:
        context.display.note(f"{failure.job} failed and is left out: {failure.reason}")


def are_enough(context: Context) -> bool:
    """Whether the finished specialists are all, or the others may be missing."""
    return context.config.specialists.on_failure == "skip" or not read_skipped(context.run)


def train_specialist(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Job: fine-tune one specialist from the generalist. arguments: run_dir, index."""
    run, index = RunFolder(arguments["run_dir"]), int(arguments["index"])
    config = run.read_config()
    examples, settings, device = open_examples(run), config.specialists, choose_device()
    group, balance = read_group(run, config, index), open_balance(run, config, examples)
    seed = network_seed(config, "specialist", index)
    change = build_change(run, settings, seed)

    def load_generalist() -> nn.Module:
        return load_weights(build_generalist(run, config, examples), run.stage_folder("generalist")).to(device)

    def train(checkpoint: Path) -> tuple[nn.Module, Progress]:
        sampler, shift, natural_shift = sample_fit(run, examples, group, settings, balance)
        offset, held_out_offset = (balance_group(balance, group, sampled=sampled) for sampled in (True, False))
        loss = enriched_loss(group, shift, offset)
        if group.dustbin == "soft":
            loss = soft_enriched_loss(group, shift, load_generalist(), offset)
        model = load_generalist()
        prepare_dustbin(model, group)
        model = place_model(model, settings, device)
        held_out = sample_held_out(run, examples, group, settings)
        held_out_rows = held_out(torch.Generator().manual_seed(mix_seed(seed, 1)))
        progress = train_model(
            model,
            Batches(examples, sampler, settings.batch_size, settings.shift, seed, device, change=change),
            mixed_loss(loss) if "mixup" in settings.augment else loss,
            settings,
            epochs=count_passes(run, config, "specialist"),
            validate=score_enriched(examples, held_out_rows, group, natural_shift, held_out_offset),
            patience=settings.patience,
            checkpoint=checkpoint,
            beat=beat,
        )
        return unwrap(model), progress

    record = train_once(run.specialist_folder(index), train, whole=False)
    return {"epochs": len(record["history"]), "best_epoch": record["best_epoch"]}


def sample_fit(
    run: RunFolder, examples: Examples, group: Group, settings: SpecialistsConfig, balance: Balance | None
) -> tuple[Sampler, float, float]:
    """How the fit split's rows are drawn, the shift that undoes their shares, and that by numbers of rows alone."""
    rows = open_by_class(run.stage_folder("splits"), "fit")
    if rows is None:
        few = part_rows(read_split(run, "fit"), examples.y, group.place_of_class)
        return *sample_group(settings, few, examples.y, balance), choose_shift(settings, *map(len, few))
    weighted = balance is not None and balance.sampling > 0
    own, rest = part_by_class(rows, examples, group, balance if weighted else None)
    sampler = sample_by_class(own, rest, settings.group_share, weighted=weighted)
    return sampler, choose_shift(settings, own.total, rest.total), choose_shift(settings, len(own), len(rest))


def sample_held_out(run: RunFolder, examples: Examples, group: Group, settings: SpecialistsConfig) -> Sampler:
    """How rows of the confuse split are drawn, which may have none outside the group."""
    rows = open_by_class(run.stage_folder("splits"), "confuse")
    if rows is None:
        few = part_rows(read_split(run, "confuse"), examples.y, group.place_of_class)
        return sample_enriched(*few, settings.group_share)
    return sample_by_class(*part_by_class(rows, examples, group, None), settings.group_share, weighted=False)


def part_by_class(rows: Tensor, examples: Examples, group: Group, balance: Balance | None) -> tuple[ByClass, ByClass]:
    """Those of a group's classes and all others, of rows that are sorted by class; none of them is held."""
    counts = count_labels(examples.y, rows, examples.classes)
    by_class, inside = weigh_by_class(rows, counts, balance), group.inside[counts > 0]
    return by_class.keep(inside), by_class.keep(~inside)


def sample_by_class(own: ByClass, rest: ByClass, group_share: float, *, weighted: bool) -> Sampler:
    """As `sample_enriched`, or by weight, for rows too many to be held."""
    others = count_others(len(own), group_share) if len(rest) else 0
    return lambda generator: order_enriched(own, rest, others, generator, weighted=weighted)


def sample_group(
    settings: SpecialistsConfig, parts: tuple[Tensor, Tensor], labels: Tensor, balance: Balance | None
) -> tuple[Sampler, float]:
    """How an epoch's rows are drawn from a group's and all others, and the shift that undoes their shares."""
    if balance is None or balance.sampling == 0:
        return sample_enriched(*parts, settings.group_share), choose_shift(settings, *map(len, parts))
    weights = balance.weigh_rows(labels[torch.cat(parts)]).split([len(part) for part in parts])
    sampler = sample_enriched_by_weight(*parts, settings.group_share, *weights)
    return sampler, choose_shift(settings, float(weights[0].sum()), float(weights[1].sum()))


def choose_shift(settings: SpecialistsConfig, own: float, others: float) -> float:
    """The shift while training, in nats, by the numbers of fit rows; 0 where the share is not to be undone."""
    return prior_shift(own / (own + others), settings.group_share) if settings.prior_correction else 0.0


def part_rows(rows: Tensor, labels: Tensor, place_of_class: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a group's classes, int64, and all others, int32; a block at a time, because every worker has them."""
    others = int(place_of_class.max())
    parts = [(part, place_of_class[labels[part]] < others) for part in rows.split(BLOCK_ROWS)]
    return torch.cat([part[own] for part, own in parts]), torch.cat([part[~own].int() for part, own in parts])
