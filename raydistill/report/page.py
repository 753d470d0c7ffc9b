"""report.html: one file that needs no network, made of report.json's figures and the pictures.

Comes in: the run folder, the numbers, and the models' answers. Goes out: HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from raydistill.display import format_seconds
from raydistill.files import Array, read_array, read_json
from raydistill.report import pictures
from raydistill.report.answers import Answers
from raydistill.report.table import CONTROLS, list_models
from raydistill.report.verdict import PAID, format_p, name_classes
from raydistill.run_folder import RunFolder
from raydistill.stages.groups import list_trained, read_affinity
from raydistill.stages.networks import read_training
from raydistill.stages.roles import STUDENT

SHOWN_NAMES = 60  # of a group, before "and more"


def render_page(run: RunFolder, numbers: dict[str, Any], models: Mapping[str, Answers]) -> str:
    """The page. models: answers of each to the test rows."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda value, digits=2: f"{value:.{digits}%}",
        "signed": lambda value: f"{value:+.2%}",
        "grouped": lambda value: f"{value:,}",
        "seconds": format_seconds,
        "p": format_p,
        "classes": name_classes,
        "flat": flatten_settings,
    }
    return environment.get_template("page.html.j2").render(
        report=numbers,
        models=list_models(numbers),
        control_names=CONTROLS,
        went_well=numbers["verdict"][PAID[numbers["teacher"]]],
        shown_names=SHOWN_NAMES,
        total_seconds=sum(stage["seconds"] for stage in numbers["stages"]),
        pictures={name: Markup(svg) for name, svg in draw_pictures(run, numbers, models).items()},
    )


def draw_pictures(run: RunFolder, numbers: dict[str, Any], models: Mapping[str, Answers]) -> dict[str, str]:
    """All pictures by name."""
    figures = {**numbers, **numbers["controls"]}
    accuracies = {name: figures[name]["test_accuracy"] for name in numbers["models"]}
    order, ends = read_order(run) if "groups" in numbers else (np.arange(numbers["data"]["classes"]), [])
    shown = {name: models[name] for name in list_shown(numbers["teacher"])}
    timelines = {}
    for stage, teacher in (("specialists", "ensemble"), ("seeds", "seeds"), ("student", STUDENT)):
        known = teacher in numbers and run.timing_path(stage).exists()
        jobs = read_json(run.timing_path(stage)) if known else []
        timelines[f"{stage}_timeline"] = pictures.draw_timeline(jobs, pictures.COLOURS[teacher]) if jobs else ""
    return {
        "accuracies": pictures.draw_accuracies(accuracies, numbers["data"]["splits"]["test"]),
        "confusions": pictures.draw_confusions(shown, order, ends),
        "search": pictures.draw_search(numbers["search"]) if numbers["search"]["trials"] else "",
        "curves": pictures.draw_curves(*read_histories(run, numbers)),
        **timelines,
    }


def list_shown(teacher: str) -> list[str]:
    """Names of the models whose confusions and groups are shown, the generalist first."""
    return list(dict.fromkeys(("generalist", teacher, STUDENT)))


def read_order(run: RunFolder) -> tuple[Array, list[int]]:
    """Class numbers in the order of their groups, and where each group ends."""
    members = read_array(run.stage_folder("groups") / "members.npy")
    return pictures.order_classes(members, read_affinity(run))


def read_histories(
    run: RunFolder, numbers: Mapping[str, Any]
) -> tuple[dict[str, pictures.History], dict[str, list[pictures.History]]]:
    """Histories of generalist, student and controls, and of the members of each ensemble but the generalist."""
    folders = {"generalist": run.stage_folder("generalist")}
    folders |= {name: run.student_folder(name) for name in (STUDENT, *numbers["controls"])}
    members = {}
    if "ensemble" in numbers:
        members["ensemble"] = [run.specialist_folder(index) for index in list_trained(run)]
    if "seeds" in numbers:
        members["seeds"] = [run.seed_folder(index) for index in range(1, numbers["seeds"]["members"])]
    return (
        {name: read_training(folder)["history"] for name, folder in folders.items()},
        {name: [read_training(folder)["history"] for folder in found] for name, found in members.items()},
    )


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names with their values."""
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        nested = isinstance(value, dict) and value and name != "options"
        flat += flatten_settings(value, f"{prefix}{name}.") if nested else [(prefix + name, value)]
    return flat
