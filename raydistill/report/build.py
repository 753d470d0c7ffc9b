"""Stage report: the only reader of the test rows. Writes report.json, report.html, predicted.npy and labels.npy.

Comes in: the run folder with all other stages finished. Goes out: the figures of every model on the test split, their
comparison, what to conclude from them, a page that shows it, and every model's answers for comparisons with other runs.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from raydistill.data.arrays import read_split
from raydistill.report.answers import Answers
from raydistill.report.calibration import measure_reliability
from raydistill.report.changes import count_errors_inside
from raydistill.report.conclusions import conclude
from raydistill.report.describe import (
    describe_balance,
    describe_convergence,
    describe_data,
    describe_generalist,
    describe_grouping,
    describe_groups,
    describe_machine,
    describe_skipped,
    describe_transfer,
    weigh_tests,
)
from raydistill.report.examination import Facts, answer_test
from raydistill.report.int8 import add_int8
from raydistill.report.metrics import compare_models, measure_model, tabulate_coverage
from raydistill.report.page import PageInputs, render_page
from raydistill.report.serving import describe_device
from raydistill.report.timeline import measure_use, read_timeline
from raydistill.report.verdict import judge_run
from raydistill.settings.config import Config
from raydistill.stages.context import Context
from raydistill.stages.groups import list_trained
from raydistill.stages.growth import describe_growth
from raydistill.stages.roles import STUDENT, has_specialists, list_controls, list_teachers, student_teacher
from raydistill.storage.files import read_array, read_json, write_array, write_json, write_text
from raydistill.version import __version__


def build_report(context: Context) -> None:
    """Answer the test rows with every model, and write the figures, the page and the answers."""
    began = time.monotonic()
    folder, rows = context.run.stage_folder("report"), read_split(context.run, "test")
    models, facts, serving = answer_test(context, rows)
    numbers = collect_numbers(context, models, facts)
    add_int8(context, rows, models[STUDENT], numbers)
    numbers["serving"] = {**describe_device(), "models": serving}
    timeline = read_timeline(context.run, [stage["name"] for stage in context.stage_log])
    numbers["slots_at_work"] = measure_use(timeline, student_teacher(context.config))
    numbers["stages"] = [
        *context.stage_log,
        {"name": "report", "seconds": round(time.monotonic() - began, 3), "skipped": False},
    ]
    numbers["conclusions"] = conclude(numbers)
    page = render_page(PageInputs(context.run, numbers, models, context.examples, rows, timeline))
    write_array(
        folder / "predicted.npy", np.stack([answers.predicted.numpy() for answers in models.values()], dtype="i4")
    )
    write_array(folder / "labels.npy", models["generalist"].labels.numpy().astype("i4"))
    write_json(folder / "report.json", numbers)
    write_text(folder / "report.html", page)


def collect_numbers(context: Context, models: dict[str, Answers], facts: Facts) -> dict[str, Any]:
    """What report.json holds but times, and what follows from all of it."""
    run, config = context.run, context.config
    search = read_json(run.stage_folder("search") / "search.json")
    names = context.examples.class_names
    weights = weigh_tests(context, models["generalist"].labels)
    figures = {name: {**measure_model(answers, names, weights), **facts[name]} for name, answers in models.items()}
    figures["generalist"] |= describe_generalist(context)
    figures[STUDENT] |= {name: search["best"][name] for name in ("temperature", "label_weight")}
    controls, shown = list_controls(config), list_shown(student_teacher(config))
    numbers: dict[str, Any] = {
        "raydistill": __version__,
        "data": describe_data(context),
        "balance": describe_balance(context, models["generalist"].labels),
        "transfer": describe_transfer(context),
        "teacher": student_teacher(config),
        "models": list(models),
        **{name: figure for name, figure in figures.items() if name not in controls},
        "controls": {name: figures[name] for name in controls},
        **({"grown": describe_growth(run, config, context.examples)} if config.grow_from else {}),
        **collect_groups(context, {name: models[name] for name in shown}),
        "reliability": {name: measure_reliability(models[name]) for name in shown},
        "significance": {
            f"{first}_vs_{second}": asdict(compare_models(models[first].correct, models[second].correct, weights))
            for first, second in list_comparisons(config)
        },
        "search": search,
        "convergence": describe_convergence(context),
        "cache": read_json(run.stage_folder("targets") / "cache.json"),
        "machine": describe_machine(),
        "settings": run.read_manifest()["settings"] | {"cluster": config.cluster.model_dump(mode="json")},
    }
    return numbers | {"verdict": judge_run(numbers)}


def collect_groups(context: Context, shown: dict[str, Answers]) -> dict[str, Any]:
    """Errors of the shown models, inside groups and outside, and what only a run with specialists has."""
    if not has_specialists(context.config):
        none = np.zeros((1, context.examples.classes), dtype=bool)
        return {"errors": _count_errors(none, shown)}
    members = read_array(context.run.stage_folder("groups") / "members.npy")
    trained = members[list_trained(context.run)]
    return {
        "coverage": tabulate_coverage(trained, shown["generalist"], shown["ensemble"]),
        "errors": _count_errors(members, shown),
        "groups": describe_groups(context, members, shown),
        "grouping": describe_grouping(context),
        "skipped": describe_skipped(context),
    }


def list_shown(teacher: str) -> list[str]:
    """Names of the models that are shown in full: the generalist, the teacher if it is another, the student."""
    return list(dict.fromkeys(("generalist", teacher, STUDENT)))


def list_comparisons(config: Config) -> list[tuple[str, str]]:
    """Pairs of models that the report compares, each once."""
    teacher, controls = student_teacher(config), list(list_controls(config))
    pairs = [(teacher, "generalist"), (STUDENT, "generalist"), (STUDENT, teacher)]
    pairs += [(STUDENT, name) for name in controls]
    if {"ensemble", "seeds"} <= set(list_teachers(config)):
        pairs.append(("ensemble", "seeds"))
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]


def _count_errors(members: Any, shown: dict[str, Answers]) -> dict[str, dict[str, int]]:
    counts = {name: count_errors_inside(members, answers) for name, answers in shown.items()}
    return {name: {"inside": inside, "outside": outside} for name, (inside, outside) in counts.items()}
