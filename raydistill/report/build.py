"""Stage report: the only reader of the test rows. Writes report.json, report.html, predicted.npy and labels.npy.

Comes in: the run folder with all other stages finished. Goes out: the figures of every model on the test split, their
comparison, a page that shows them, and every model's answers for comparisons with other runs.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import log_softmax

from raydistill.config import Config
from raydistill.data.arrays import read_split
from raydistill.files import read_array, read_json, write_array, write_json, write_text
from raydistill.models import count_parameters
from raydistill.report.answers import Answers, join_answers, reduce_answers
from raydistill.report.describe import (
    describe_balance,
    describe_data,
    describe_generalist,
    describe_grouping,
    describe_groups,
    describe_machine,
    describe_skipped,
    describe_transfer,
)
from raydistill.report.int8 import add_int8
from raydistill.report.metrics import compare_models, measure_by_class, measure_quality, tabulate_coverage
from raydistill.report.page import list_shown, render_page
from raydistill.report.verdict import judge_run
from raydistill.scoring import predict_logits
from raydistill.stages.context import Context
from raydistill.stages.groups import list_trained
from raydistill.stages.growth import describe_growth
from raydistill.stages.networks import build_student, load_weights, read_repair
from raydistill.stages.roles import (
    STUDENT,
    has_specialists,
    list_controls,
    list_students,
    list_teachers,
    student_teacher,
)
from raydistill.stages.teacher import answer_blocks, load_teachers, split_blocks
from raydistill.teacher import Teachers
from raydistill.version import __version__
from raydistill.workers import choose_device


def build_report(context: Context) -> None:
    """Answer the test rows with every model, and write the figures, the page and the answers."""
    began = time.monotonic()
    folder = context.run.stage_folder("report")
    models, facts = answer_test(context)
    numbers = collect_numbers(context, models, facts)
    add_int8(context, read_split(context.run, "test"), models[STUDENT], numbers)
    numbers["stages"] = [
        *context.stage_log,
        {"name": "report", "seconds": round(time.monotonic() - began, 3), "skipped": False},
    ]
    page = render_page(context.run, numbers, models)
    write_array(
        folder / "predicted.npy", np.stack([answers.predicted.numpy() for answers in models.values()], dtype="i4")
    )
    write_array(folder / "labels.npy", models["generalist"].labels.numpy().astype("i4"))
    write_json(folder / "report.json", numbers)
    write_text(folder / "report.html", page)


def answer_test(context: Context) -> tuple[dict[str, Answers], dict[str, dict[str, Any]]]:
    """Answers of every model to the test rows, and facts such as the number of parameters."""
    rows = read_split(context.run, "test")
    models, facts = answer_teachers(context, rows)
    for name in list_students(context.config):
        models[name], facts[name] = answer_student(context, name, rows)
    return models, facts


def answer_teachers(context: Context, rows: Tensor) -> tuple[dict[str, Answers], dict[str, dict[str, Any]]]:
    """Answers of all teachers, the generalist first, and facts about them."""
    teachers = load_teachers(context.run, context.config, context.examples)
    others = [name for name in list_teachers(context.config) if name != "generalist"]
    parts: dict[str, list[Answers]] = {name: [] for name in ("generalist", *others)}
    facts = {name: describe_teacher(teachers, name) for name in parts}
    asked, gap, done = 0, 0.0, 0
    for part, block in answer_blocks(teachers, context.examples, rows):
        for name, answers in parts.items():
            answers.append(reduce_answers(block.log_probs[name], context.examples.y[part]))
        if block.active is not None and block.gap is not None:
            asked, gap = asked + int(block.active.sum()), max(gap, float(block.gap.max()))
        done += len(part)
        context.display.update(done / len(rows), "answers to the test examples")
    if "ensemble" in facts:
        facts["ensemble"] |= {"specialists_asked": asked / len(rows), "largest_gap_nats": gap}
    return {name: join_answers(answers) for name, answers in parts.items()}, facts


def describe_teacher(teachers: Teachers, name: str) -> dict[str, Any]:
    """Number of parameters of a teacher, all its networks together, and how many networks those are."""
    size = count_parameters(teachers.generalist)
    if name == "ensemble" and teachers.ensemble is not None:
        specialists = teachers.ensemble.specialists
        size = count_parameters(teachers.generalist, *specialists)
        return {"parameters": size, "specialists": len(specialists)}
    if name == "seeds" and teachers.seeds is not None:
        members = teachers.seeds.members
        return {"parameters": sum(map(count_parameters, members)), "members": len(members)}
    return {"parameters": size}


def answer_student(context: Context, name: str, rows: Tensor) -> tuple[Answers, dict[str, Any]]:
    """Answers of the student or a control, and facts about it; those of a repair tell how good it was before."""
    run, examples = context.run, context.examples
    folder = run.student_folder(name)
    model = load_weights(build_student(run, context.config, examples), folder).to(choose_device())
    repair = read_repair(folder)
    answers, unrepaired = [], []
    for part in split_blocks(rows, examples):
        logits, labels = predict_logits(model, examples.x, part), examples.y[part]
        answers.append(reduce_answers(log_softmax(logits, dim=1), labels))
        if repair is not None:
            unrepaired.append(reduce_answers(log_softmax(logits - spread_offsets(repair, logits), dim=1), labels))
    facts: dict[str, Any] = {"parameters": count_parameters(model)}
    if repair is not None:
        facts["repair"] = {
            "classes": [examples.class_names[index] for index in repair["classes"]],
            "offsets": repair["offsets"],
            "unrepaired": measure_quality(join_answers(unrepaired), examples.classes),
        }
    return join_answers(answers), facts


def spread_offsets(repair: dict[str, Any], logits: Tensor) -> Tensor:
    """What a repair added to each class's logit: (K,) nats, 0 where it changed nothing. logits: (N, K)."""
    offsets = logits.new_zeros(logits.shape[1])
    offsets[repair["classes"]] = logits.new_tensor(repair["offsets"])
    return offsets


def collect_numbers(context: Context, models: dict[str, Answers], facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Everything that report.json holds but the stages' times."""
    run, config = context.run, context.config
    search = read_json(run.stage_folder("search") / "search.json")
    figures = {
        name: {
            **measure_quality(answers, context.examples.classes),
            **measure_by_class(answers, context.examples.class_names),
            **facts[name],
        }
        for name, answers in models.items()
    }
    figures["generalist"] |= describe_generalist(context)
    figures[STUDENT] |= {name: search["best"][name] for name in ("temperature", "label_weight")}
    controls = list_controls(config)
    numbers: dict[str, Any] = {
        "raydistill": __version__,
        "data": describe_data(context),
        "balance": describe_balance(context),
        "transfer": describe_transfer(context),
        "teacher": student_teacher(config),
        "models": list(models),
        **{name: figure for name, figure in figures.items() if name not in controls},
        "controls": {name: figures[name] for name in controls},
        **({"grown": describe_growth(run, config, context.examples)} if config.grow_from else {}),
        **(collect_groups(context, models) if has_specialists(config) else {}),
        "significance": {
            f"{first}_vs_{second}": asdict(compare_models(models[first].correct, models[second].correct))
            for first, second in list_comparisons(config)
        },
        "search": search,
        "cache": read_json(run.stage_folder("targets") / "cache.json"),
        "machine": describe_machine(),
        "settings": run.read_manifest()["settings"] | {"cluster": config.cluster.model_dump(mode="json")},
    }
    return numbers | {"verdict": judge_run(numbers)}


def collect_groups(context: Context, models: dict[str, Answers]) -> dict[str, Any]:
    """What report.json holds only of a run with specialists."""
    members = read_array(context.run.stage_folder("groups") / "members.npy")
    shown = {name: models[name] for name in list_shown("ensemble")}
    trained = members[list_trained(context.run)]
    return {
        "coverage": tabulate_coverage(trained, models["generalist"], models["ensemble"]),
        "groups": describe_groups(context, members, shown),
        "grouping": describe_grouping(context),
        "skipped": describe_skipped(context),
    }


def list_comparisons(config: Config) -> list[tuple[str, str]]:
    """Pairs of models that the report compares, each once."""
    teacher, controls = student_teacher(config), list(list_controls(config))
    pairs = [(teacher, "generalist"), (STUDENT, "generalist"), (STUDENT, teacher)]
    pairs += [(STUDENT, name) for name in controls]
    if {"ensemble", "seeds"} <= set(list_teachers(config)):
        pairs.append(("ensemble", "seeds"))
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
