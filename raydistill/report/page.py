"""report.html: one file that needs no network, made of report.json's figures and the pictures.

Comes in: the run folder, the numbers, and the models' answers. Goes out: HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from raydistill.display import format_seconds
from raydistill.files import read_array, read_json
from raydistill.report import pictures
from raydistill.report.answers import Answers
from raydistill.report.table import list_models
from raydistill.report.verdict import format_p
from raydistill.run_folder import RunFolder
from raydistill.stages.networks import read_training
from raydistill.stages.student import CONTROLS, STUDENT

SHOWN_MODELS = ("generalist", "ensemble", STUDENT)  # whose confusions and groups are shown
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
        "flat": flatten_settings,
    }
    return environment.get_template("page.html.j2").render(
        report=numbers,
        models=list_models(numbers),
        shown_names=SHOWN_NAMES,
        total_seconds=sum(stage["seconds"] for stage in numbers["stages"]),
        pictures={name: Markup(svg) for name, svg in draw_pictures(run, numbers, models).items()},
    )


def draw_pictures(run: RunFolder, numbers: dict[str, Any], models: Mapping[str, Answers]) -> dict[str, str]:
    """All pictures by name."""
    members = read_array(run.stage_folder("groups") / "members.npy")
    affinity = read_array(run.stage_folder("confusion") / "affinity.npy")
    order, ends = pictures.order_classes(members, affinity)
    accuracies = {name: numbers[name]["test_accuracy"] for name in SHOWN_MODELS}
    accuracies |= {name: numbers["controls"][name]["test_accuracy"] for name in CONTROLS}
    histories = {"generalist": read_training(run.stage_folder("generalist"))["history"]}
    histories |= {name: read_training(run.student_folder(name))["history"] for name in (STUDENT, *CONTROLS)}
    specialists = [read_training(run.specialist_folder(index))["history"] for index in range(len(members))]
    timelines = {}
    for stage in ("specialists", "student"):
        jobs = read_json(run.timing_path(stage)) if run.timing_path(stage).exists() else []
        timelines[f"{stage}_timeline"] = pictures.draw_timeline(jobs, pictures.COLOURS["ensemble"]) if jobs else ""
    return {
        "accuracies": pictures.draw_accuracies(accuracies, numbers["data"]["splits"]["test"]),
        "confusions": pictures.draw_confusions({name: models[name] for name in SHOWN_MODELS}, order, ends),
        "search": pictures.draw_search(numbers["search"]),
        "curves": pictures.draw_curves(histories, specialists),
        **timelines,
    }


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names with their values."""
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        nested = isinstance(value, dict) and value and name != "options"
        flat += flatten_settings(value, f"{prefix}{name}.") if nested else [(prefix + name, value)]
    return flat
