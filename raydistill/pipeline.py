"""The stages in order.

    source ─► data ─► splits ─► generalist ─► confusion ─► groups ─► specialists ─► ensemble ─► targets ─► search
           ─► student ─► report

Each stage is a function of its inputs' files and its part of the configuration (`STAGES`). One that is finished is
skipped; anything else is done, or gone on with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from raydistill.config import Config
from raydistill.data.sources import check_source, identify_source
from raydistill.display import Display
from raydistill.execution import Executor
from raydistill.report import build_report
from raydistill.run_folder import RunFolder
from raydistill.stages.context import Context, Stage
from raydistill.stages.data import prepare_data, split_data
from raydistill.stages.generalist import run_generalist
from raydistill.stages.groups import count_groups, find_groups, measure_confusions
from raydistill.stages.networks import build_generalist, build_student
from raydistill.stages.specialists import run_specialists
from raydistill.stages.student import run_search, run_students
from raydistill.stages.teacher import cache_targets, evaluate_ensemble

PIPELINE = (
    Stage("data", (), identify_source, prepare_data),
    Stage("splits", ("data",), lambda config: [config.splits, config.seed], split_data),
    Stage("generalist", ("data", "splits"), lambda config: [config.generalist, config.seed], run_generalist),
    Stage("confusion", ("data", "splits", "generalist"), lambda config: config.grouping.affinity, measure_confusions),
    Stage(
        "groups",
        ("data", "splits", "confusion"),
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
        ("data", "splits", "generalist", "groups"),
        lambda config: [config.specialists, _default_passes(config), config.seed],
        run_specialists,
    ),
    Stage(
        "ensemble",
        ("data", "splits", "generalist", "groups", "specialists"),
        lambda config: [config.ensemble, config.specialists.dustbin],
        evaluate_ensemble,
    ),
    Stage(
        "targets",
        ("data", "splits", "generalist", "groups", "specialists"),
        lambda config: [config.ensemble, config.specialists.dustbin, config.targets],
        cache_targets,
    ),
    Stage(
        "search",
        ("data", "splits", "targets"),
        lambda config: [config.search, config.student, _student_model(config), _default_passes(config), config.seed],
        run_search,
    ),
    Stage(
        "student",
        ("data", "splits", "targets", "search"),
        lambda config: [config.student, _student_model(config), _default_passes(config), config.seed],
        run_students,
    ),
    Stage(
        "report",
        ("data", "splits", "generalist", "groups", "specialists", "ensemble", "targets", "search", "student"),
        lambda config: None,
        build_report,
    ),
)
PLAN = PIPELINE[:5]  # up to the groups and their forecast


def run_pipeline(
    config: Config,
    *,
    display: Display,
    start_executor: Callable[[RunFolder], Executor],
    stages: Sequence[Stage] = PIPELINE,
    on_change: str = "refuse",
) -> RunFolder:
    """Run the stages in order, skipping those that are finished. Returns the run folder.

    Raises RaydistillError before any training if data, settings, models or the folder cannot be used.
    """
    check_source(config.data)
    run = RunFolder(config.run_dir)
    lock = run.acquire_lock()
    context = Context(run, config, display, lambda: start_executor(run))
    try:
        run.open(config, on_change)
        for number, stage in enumerate(stages, start=1):
            run_stage(context, stage, number, len(stages))
            if stage.name == "splits":
                check_fit(context)
    finally:
        context.close()
        display.close()
        lock.release()
    return run


def run_stage(context: Context, stage: Stage, number: int, total: int) -> None:
    """Do a stage, or skip it if its key stands and its files verify."""
    run = context.run
    context.display.begin_stage(stage.name, number, total)
    key = run.stage_key(stage.name, to_json(stage.settings(context.config)), stage.inputs)
    skipped = run.is_finished(stage.name, key)
    began = time.monotonic()
    if not skipped:
        run.begin_stage(stage.name, key)
        stage.body(context)
        run.finish_stage(stage.name, key, time.monotonic() - began)
    seconds = run.read_manifest()["stages"][stage.name]["seconds"]
    context.stage_log.append({"name": stage.name, "seconds": seconds, "skipped": skipped})
    context.display.end_stage(seconds, skipped)


def check_fit(context: Context) -> None:
    """Whether models and groups fit the data, before any training. Raises ModelError or ConfigError."""
    count_groups(context.config, context.examples.classes)
    build_generalist(context.run, context.config, context.examples)
    build_student(context.run, context.config, context.examples)


def to_json(value: Any) -> Any:
    """Settings as JSON, sections as mappings."""
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _default_passes(config: Config) -> Any:
    """What the passes of specialists, trials and students follow from, where they are left out."""
    return [config.generalist.epochs, config.generalist.batch_size]


def _student_model(config: Config) -> Any:
    """The student's architecture: the generalist's, if it has none of its own."""
    return [config.generalist.model, config.generalist.options] if config.student.model is None else None
