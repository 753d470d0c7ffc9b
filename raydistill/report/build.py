"""Stage report: the only reader of the test rows. Writes report.json and report.html.

Comes in: the run folder with all other stages finished. Goes out: the figures of every model on the test split, their
comparison, and a page that shows them.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from raydistill.data.arrays import read_split
from raydistill.data.splits import SPLITS
from raydistill.files import Array, read_array, read_json, write_json, write_text
from raydistill.groups import name_group
from raydistill.models import count_parameters
from raydistill.report.answers import Answers, join_answers, reduce_answers
from raydistill.report.metrics import compare_models, measure_quality, tabulate_coverage
from raydistill.report.page import SHOWN_MODELS, render_page
from raydistill.report.verdict import judge_run
from raydistill.scoring import predict_logits
from raydistill.stages.context import Context
from raydistill.stages.networks import build_student, load_weights, read_training
from raydistill.stages.student import CONTROLS, STUDENT
from raydistill.stages.teacher import combine_blocks, load_ensemble_from, split_blocks
from raydistill.version import __version__
from raydistill.workers import choose_device

COMPARED = (
    ("ensemble", "generalist"),
    ("student", "generalist"),
    ("student", "ensemble"),
    *(("student", name) for name in CONTROLS),
)
RECORDED_PACKAGES = ("torch", "numpy", "scikit-learn", "ray", "optuna")


def build_report(context: Context) -> None:
    """Answer the test rows with every model, and write report.json and report.html."""
    began = time.monotonic()
    folder = context.run.stage_folder("report")
    models, facts = answer_test(context)
    numbers = collect_numbers(context, models, facts)
    numbers["stages"] = [
        *context.stage_log,
        {"name": "report", "seconds": round(time.monotonic() - began, 3), "skipped": False},
    ]
    page = render_page(context.run, numbers, models)
    write_json(folder / "report.json", numbers)
    write_text(folder / "report.html", page)


def answer_test(context: Context) -> tuple[dict[str, Answers], dict[str, dict[str, Any]]]:
    """Answers of every model to the test rows, and facts such as the number of parameters."""
    run, config, examples = context.run, context.config, context.examples
    rows = read_split(run, "test")
    ensemble = load_ensemble_from(run, config, examples)
    alone: list[Answers] = []
    together: list[Answers] = []
    active, gap = 0, 0.0
    for part, output in zip(split_blocks(rows, examples), combine_blocks(ensemble, examples, rows), strict=True):
        alone.append(reduce_answers(output.generalist_log_probs, examples.y[part]))
        together.append(reduce_answers(output.log_probs, examples.y[part]))
        active, gap = active + int(output.active.sum()), max(gap, float(output.gap.max()))
        context.display.update(len(alone) / (len(rows) // len(part) + 1), "answers to the test examples")
    models = {"generalist": join_answers(alone), "ensemble": join_answers(together)}
    size = count_parameters(ensemble.generalist)
    facts: dict[str, dict[str, Any]] = {
        "generalist": {"parameters": size},
        "ensemble": {
            "parameters": size + sum(count_parameters(model) for model in ensemble.specialists),
            "specialists": len(ensemble.specialists),
            "specialists_asked": active / len(rows),
            "largest_gap_nats": gap,
        },
    }
    for name in (STUDENT, *CONTROLS):
        model = load_weights(build_student(run, config, examples), run.student_folder(name)).to(choose_device())
        models[name] = join_answers(list(answer_rows(context, model, rows)))
        facts[name] = {"parameters": count_parameters(model)}
    return models, facts


def answer_rows(context: Context, model: nn.Module, rows: Tensor) -> Iterator[Answers]:
    """One network's answers, a block at a time."""
    examples = context.examples
    for part in split_blocks(rows, examples):
        yield reduce_answers(log_softmax(predict_logits(model, examples.x, part), dim=1), examples.y[part])


def collect_numbers(context: Context, models: dict[str, Answers], facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Everything that report.json holds but the stages' times."""
    run, config, classes = context.run, context.config, context.examples.classes
    members = read_array(run.stage_folder("groups") / "members.npy")
    search = read_json(run.stage_folder("search") / "search.json")
    figures = {name: {**measure_quality(answers, classes), **facts[name]} for name, answers in models.items()}
    figures["generalist"] |= read_best_losses(context)
    figures[STUDENT] |= {name: search["best"][name] for name in ("temperature", "label_weight")}
    numbers: dict[str, Any] = {
        "raydistill": __version__,
        "data": describe_data(context),
        "generalist": figures["generalist"],
        "ensemble": figures["ensemble"],
        "student": figures[STUDENT],
        "controls": {name: figures[name] for name in CONTROLS},
        "coverage": tabulate_coverage(members, models["generalist"], models["ensemble"]),
        "groups": describe_groups(context, members, models),
        "grouping": describe_grouping(context),
        "significance": {
            f"{first}_vs_{second}": asdict(compare_models(models[first].correct, models[second].correct))
            for first, second in COMPARED
        },
        "search": search,
        "cache": read_json(run.stage_folder("targets") / "cache.json"),
        "machine": describe_machine(),
        "settings": run.read_manifest()["settings"] | {"cluster": config.cluster.model_dump(mode="json")},
    }
    return numbers | {"verdict": judge_run(numbers)}


def read_best_losses(context: Context) -> dict[str, Any]:
    """The generalist's losses after its best epoch, on its training examples and on held-out ones, and its epochs."""
    record = read_training(context.run.stage_folder("generalist"))
    best = record["history"][max(record["best_epoch"], 1) - 1]
    return {"train_loss": best["loss"], "valid_loss": best["valid_loss"], "epochs": len(record["history"])}


def describe_data(context: Context) -> dict[str, Any]:
    """Source, sizes and seed."""
    examples = context.examples
    return {
        "source": context.config.data,
        "examples": len(examples.y),
        "classes": examples.classes,
        "shape": list(examples.input_shape),
        "splits": {name: len(read_split(context.run, name)) for name in SPLITS},
        "seed": context.config.seed,
    }


def describe_groups(context: Context, members: Array, models: dict[str, Answers]) -> list[dict[str, Any]]:
    """Each group with its forecast, and the accuracy of the models on the test examples of its classes."""
    names, labels = context.examples.class_names, models["generalist"].labels
    forecasts = read_json(context.run.stage_folder("groups") / "groups.json")["groups"]
    groups = []
    for row, forecast in zip(members, forecasts, strict=True):
        inside = torch.from_numpy(row)[labels]
        accuracies = {f"{name}_accuracy": float(models[name].correct[inside].double().mean()) for name in SHOWN_MODELS}
        name = name_group(forecast["members"], names, most=len(names))
        groups.append({"name": name, **forecast, "test_examples": int(inside.sum()), **accuracies})
    return groups


def describe_grouping(context: Context) -> dict[str, Any]:
    """How good the groups were said to be before the fan-out."""
    summary = read_json(context.run.stage_folder("groups") / "groups.json")
    wanted = ("mass_covered", "groups_per_class", "stability", "fixable")
    return {name: summary[name] for name in wanted}


def describe_machine() -> dict[str, Any]:
    """Where the report was made, and by which versions."""
    return {
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in RECORDED_PACKAGES},
    }
