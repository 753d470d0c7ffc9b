"""The stages in order.

    source ─► data ─► splits ─► generalist ─► confusion ─► groups ─► specialists ─► ensemble ─► targets ─► search
           ─► student ─► report

Each stage is a function of its inputs' files and its part of the configuration (`PIPELINE`). One that is finished is
skipped; anything else is done, or gone on with. A stage that the configuration has no use for is left out: groups and
specialists for another teacher, generalists of other seeds (stage seeds, after specialists) where none are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raydistill.data.augment import check_augment
from raydistill.data.sources import check_source, identify_source
from raydistill.data.unlabeled import check_unlabeled, identify_unlabeled
from raydistill.deployment.onnx_file import check_onnx
from raydistill.display import Display
from raydistill.errors import ConfigError
from raydistill.execution.jobs import Executor
from raydistill.method.confusion import MOST_PREDICTIONS
from raydistill.networks.architecture import (
    check_files,
    generalist_architecture,
    identify_architecture,
    student_architecture,
)
from raydistill.report import build_report
from raydistill.settings.config import Config
from raydistill.stages.context import Context, Stage
from raydistill.stages.data import prepare_data, split_data
from raydistill.stages.fit import check_networks
from raydistill.stages.generalist import run_generalist, run_seeds
from raydistill.stages.given import describe_assumption
from raydistill.stages.groups import count_groups, find_groups, measure_confusions
from raydistill.stages.origin import copy_origin, find_origin, identify_origin
from raydistill.stages.repair import check_repair
from raydistill.stages.roles import has_specialists, wants_stage
from raydistill.stages.specialists import are_enough, run_specialists
from raydistill.stages.student import run_search, run_students
from raydistill.stages.teacher import (
    build_views,
    cache_targets,
    choose_tail_rank,
    evaluate_ensemble,
    select_transfer_rows,
)
from raydistill.stages.warm import check_warm
from raydistill.storage.run_folder import ORIGIN, RunFolder

PIPELINE = (
    Stage(ORIGIN, (), identify_origin, copy_origin),
    Stage(
        "data", (), lambda config: identify_source(config) | identify_unlabeled(config.transfer.unlabeled), prepare_data
    ),
    Stage("splits", (ORIGIN, "data"), lambda config: [config.splits, config.seed], split_data),
    Stage(
        "generalist",
        (ORIGIN, "data", "splits"),
        lambda config: [*_generalist_settings(config), config.seed, *_growth(config)],
        run_generalist,
    ),
    Stage(
        "confusion",
        ("data", "splits", "generalist"),
        lambda config: [config.grouping.affinity, MOST_PREDICTIONS],
        measure_confusions,
    ),
    Stage(
        "groups",
        (ORIGIN, "data", "splits", "confusion"),
        lambda config: [
            config.grouping,
            config.specialists.groups,
            config.specialists.group_share,
            config.ensemble,
            config.seed,
        ],
        find_groups,
    ),
    Stage(
        "specialists",
        (ORIGIN, "data", "splits", "generalist", "groups"),
        lambda config: [
            config.specialists.model_dump(mode="json", exclude={"on_failure"}),
            config.balance,
            list(config.generalist.freeze),
            *_growth(config),
            _default_passes(config),
            config.seed,
        ],
        run_specialists,
        are_enough,
    ),
    Stage(
        "seeds",
        (ORIGIN, "data", "splits"),
        lambda config: [*_generalist_settings(config), config.teacher.seeds, config.seed, *_growth(config)],
        run_seeds,
    ),
    Stage(
        "ensemble",
        ("data", "splits", "generalist", "groups", "specialists", "seeds"),
        lambda config: [config.ensemble, config.specialists.dustbin, config.teacher],
        evaluate_ensemble,
    ),
    Stage(
        "targets",
        ("data", "splits", "generalist", "groups", "specialists", "seeds"),
        lambda config: [
            config.ensemble,
            config.specialists.dustbin,
            config.teacher,
            config.targets,
            config.transfer.model_dump(mode="json", exclude={"repair", "unlabeled"}),
            config.student.shift,
            config.student.augment,
            config.seed,
        ],
        cache_targets,
    ),
    Stage(
        "search",
        (ORIGIN, "data", "splits", "targets"),
        lambda config: [config.search, *_student_settings(config)],
        run_search,
    ),
    Stage(
        "student",
        (ORIGIN, "data", "splits", "targets", "search"),
        lambda config: [config.transfer.repair, *_student_settings(config)],
        run_students,
    ),
    Stage(
        "report",
        (
            *(ORIGIN, "data", "splits", "generalist", "groups", "specialists", "seeds", "ensemble", "targets"),
            *("search", "student"),
        ),
        lambda config: [config.report],
        build_report,
    ),
)


def run_pipeline(
    config: Config,
    *,
    display: Display,
    start_executor: Callable[[RunFolder], Executor],
    until: str = PIPELINE[-1].name,
    on_change: str = "refuse",
    start_from: Path | str | None = None,
) -> RunFolder:
    """Run the stages that the configuration wants in order, skipping those that are finished. Returns the run folder.

    Raises RaydistillError before any training if data, settings, models or the folder cannot be used.
    """
    check_source(config.data)
    check_unlabeled(config.transfer.unlabeled)
    check_files(config)
    if config.grow_from is not None:
        find_origin(config)
    stages = list_stages(config, until)
    run = RunFolder(config.run_dir)
    lock = run.acquire_lock()
    context = Context(run, config, display, lambda: start_executor(run))
    try:
        run.open(config, on_change, start_from)
        if (assumption := describe_assumption(config)) is not None:
            display.note(assumption)
        for stage in stages:
            run_stage(context, stage, [other.name for other in stages])
            if stage.name == "splits":
                check_fit(context)
    finally:
        context.close()
        display.close()
        lock.release()
    return run


def list_stages(config: Config, until: str) -> list[Stage]:
    """The stages that the configuration wants, up to the named one. Raises ConfigError if it does not want that."""
    stages = [stage for stage in PIPELINE if wants_stage(config, stage.name)]
    names = [stage.name for stage in stages]
    if until not in names:
        raise ConfigError(
            f"until: there is no stage {until!r} with teacher.kind {config.teacher.kind!r};"
            f" give one of {', '.join(names)}"
        )
    return stages[: names.index(until) + 1]


def run_stage(context: Context, stage: Stage, names: Sequence[str]) -> None:
    """Do a stage, or skip it if its key stands, and its files verify and are enough. names: all stages, in order."""
    run = context.run
    context.display.begin_stage(stage.name, names.index(stage.name) + 1, len(names))
    inputs = [name for name in stage.inputs if name in names]
    key = run.stage_key(stage.name, to_json(stage.settings(context.config)), inputs)
    skipped = (run.is_finished(stage.name, key) or run.take_over(stage.name, key)) and stage.stands(context)
    began = time.monotonic()
    if not skipped:
        run.begin_stage(stage.name, key)
        stage.body(context)
        run.finish_stage(stage.name, key, time.monotonic() - began)
    seconds = run.read_manifest()["stages"][stage.name]["seconds"]
    context.stage_log.append({"name": stage.name, "seconds": seconds, "skipped": skipped})
    context.display.end_stage(seconds, skipped)


def check_fit(context: Context) -> None:
    """Whether models, groups, transfer set, views and targets fit the data. Raises ModelError or ConfigError."""
    if has_specialists(context.config):
        count_groups(context.config, context.examples.classes)
    generalist, student = check_networks(context)
    check_warm(context, generalist, student)
    transfer = select_transfer_rows(context.run, context.config, context.examples)
    check_repair(context.run, context.config, context.examples, student, transfer)
    build_views(context.run, context.config, context.examples)
    for name in ("generalist", "specialists", "student"):
        check_augment(f"{name}.augment", getattr(context.config, name).augment, context.examples.input_shape)
    choose_tail_rank(context.config.targets, context.examples.classes)
    if context.config.report.int8:
        check_onnx("report.int8")


def to_json(value: Any) -> Any:
    """Settings as JSON, sections as mappings."""
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _student_settings(config: Config) -> list[Any]:
    """What decides a student's training."""
    return [
        config.student,
        config.balance,
        config.teacher.kind,
        _student_model(config),
        _default_passes(config),
        config.seed,
        *_growth(config),
    ]


def _generalist_settings(config: Config) -> list[Any]:
    """What decides a generalist's training, but its seed."""
    return [config.generalist, identify_architecture(generalist_architecture(config)), config.balance]


def _growth(config: Config) -> list[Any]:
    """What decides how networks grow; nothing in a run that does not."""
    return [] if config.grow_from is None else [config.grow]


def _default_passes(config: Config) -> Any:
    """What the passes of specialists, trials and students follow from, where they are left out."""
    return [config.generalist.epochs, config.generalist.batch_size]


def _student_model(config: Config) -> Any:
    """The student's architecture, which is the generalist's if it has none of its own, and its files' checksums."""
    return identify_architecture(student_architecture(config))
