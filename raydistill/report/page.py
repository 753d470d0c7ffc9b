"""report.html: one file that needs no network and no script, made of report.json's figures, pictures and examples.

Comes in: `PageInputs`. Goes out: HTML. Templates (*.j2) hold all markup; what they show is prepared here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from torch import Tensor

from raydistill.data.arrays import Examples
from raydistill.display import format_seconds
from raydistill.report import palette, pictures
from raydistill.report.answers import Answers
from raydistill.report.changes import list_confusions
from raydistill.report.confusions import order_classes
from raydistill.report.gallery import sample_groups, show_changes
from raydistill.report.headline import format_bytes, list_cards, write_headline
from raydistill.report.kept import list_kept
from raydistill.report.matrices import ALL_PAIRS, name_pairs, show_whole, zoom_groups
from raydistill.report.names import LABELS
from raydistill.report.shares import name_measure, say_weighted
from raydistill.report.table import CONTROLS, list_models
from raydistill.report.timeline import Timeline
from raydistill.report.verdict import PAID, SIGNIFICANT, format_p, name_classes
from raydistill.stages.groups import list_trained, read_affinity
from raydistill.stages.networks import read_training
from raydistill.stages.roles import STUDENT
from raydistill.storage.files import read_array
from raydistill.storage.run_folder import RunFolder

SHOWN_NAMES = 90  # characters of a group's name in a table


@dataclass(frozen=True)
class PageInputs:
    """What a page is made of. numbers: as report.json; models: answers of each to the test rows, `rows` of examples."""

    run: RunFolder
    numbers: dict[str, Any]
    models: Mapping[str, Answers]
    examples: Examples
    rows: Tensor
    timeline: Timeline

    @property
    def shown(self) -> dict[str, Answers]:
        """The models that are shown in full: those with a reliability diagram."""
        return {name: self.models[name] for name in self.numbers["reliability"]}


def render_page(inputs: PageInputs) -> str:
    """The page."""
    numbers = inputs.numbers
    total = sum(stage["seconds"] for stage in numbers["stages"])
    return (
        build_environment()
        .get_template("page.html.j2")
        .render(
            report=numbers,
            findings=numbers["conclusions"],
            headline=write_headline(numbers),
            cards=list_cards(numbers, LABELS),
            rows=list_rows(numbers),
            labels=LABELS,
            control_names=CONTROLS,
            went_well=numbers["verdict"][PAID[numbers["teacher"]]],
            shown_names=SHOWN_NAMES,
            significant=SIGNIFICANT,
            measure=name_measure(numbers),
            weighted=say_weighted(numbers),
            total_seconds=total,
            themes={"light": palette.LIGHT, "dark": palette.DARK},
            pictures={name: Markup(svg) for name, svg in draw_pictures(inputs).items()},
            after=STUDENT if numbers["teacher"] == "generalist" else numbers["teacher"],
            timeline=inputs.timeline,
            kept=list_kept(numbers),
            **collect_views(inputs),
        )
    )


def build_environment() -> Environment:
    """Templates, in which an undefined name is an error, and every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda value, digits=2: "–" if value is None else f"{value:.{digits}%}",
        "points": lambda value: f"{100 * value:+.2f}".replace("-", "−"),
        "signed": lambda value, digits=2: f"{value:+.{digits}%}".replace("-", "−"),
        "grouped": lambda value: f"{value:,}",
        "net": lambda value: f"{value:+,}".replace("-", "−"),
        "seconds": lambda value: f"{value:.1f} s" if value < 10 else format_seconds(value),
        "bytes": format_bytes,
        "p": format_p,
        "classes": name_classes,
        "flat": flatten_settings,
        "script": explain_letter,
        "dashed": lambda name: name.replace("_", "-"),
    }
    return environment


def list_rows(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of models: name, label, figures, and the student's comparison with it, if there is one."""
    student = [STUDENT, *(["unrepaired"] if "repair" in numbers[STUDENT] else [])]
    teachers = [name for name in ("generalist", "ensemble", "seeds") if name in numbers]
    names = [*teachers, *student, *(["int8"] if "int8" in numbers else []), *numbers["controls"]]
    return [
        {
            "name": name,
            "label": label,
            "figures": figures,
            "test": numbers["significance"].get(f"{STUDENT}_vs_{name}"),
        }
        for name, (label, figures) in zip(names, list_models(dict(numbers)), strict=True)
    ]


def collect_views(inputs: PageInputs) -> dict[str, Any]:
    """Matrices, their blocks, examples and samples."""
    numbers, examples, shown = inputs.numbers, inputs.examples, inputs.shown
    names, after = examples.class_names, STUDENT if numbers["teacher"] == "generalist" else numbers["teacher"]
    changes = show_changes(examples, inputs.rows, shown, after, numbers["data"]["seed"])
    views = {"changes": changes, "pairs": name_pairs(list_confusions(shown, ALL_PAIRS), names)}
    if "groups" not in numbers:
        return {**views, "whole": show_whole(shown, np.arange(len(names)), []), "zooms": [], "samples": []}
    members = read_array(inputs.run.stage_folder("groups") / "members.npy")
    order, ends = order_classes(members, read_affinity(inputs.run))
    return {
        **views,
        "whole": show_whole(shown, order, ends),
        "zooms": zoom_groups(shown, members, order, names),
        "samples": sample_groups(examples, inputs.rows, inputs.models["generalist"].labels, members),
    }


def draw_pictures(inputs: PageInputs) -> dict[str, str]:
    """All charts by name; '' for those that the run has no numbers for."""
    numbers = inputs.numbers
    said, figures = numbers["conclusions"], {**numbers, **numbers["controls"]}
    accuracies = {name: figures[name]["test_accuracy"] for name in numbers["models"]}
    histories, members = read_histories(inputs.run, numbers)
    costs = [
        {**group, "index": index}
        for index, group in enumerate(numbers.get("groups", []))
        if group["seconds"] is not None
    ]
    return {
        "accuracies": pictures.draw_accuracies(accuracies, numbers["data"]["splits"]["test"], said["accuracies"]),
        "reliability": pictures.draw_reliability(numbers["reliability"], said["reliability"]),
        "selective": pictures.draw_selective(numbers["reliability"], said["surest"]),
        "costs": pictures.draw_costs(costs, said["costs"]) if costs else "",
        "search": pictures.draw_search(numbers["search"], said["search"]) if numbers["search"]["trials"] else "",
        "curves": pictures.draw_curves(histories, said["curves"]),
        "timeline": pictures.draw_timeline(inputs.timeline, said["time"]) if inputs.timeline.bars else "",
        **{
            f"{name}_members": pictures.draw_members(
                name, members[name], f"Held-out loss by pass of {len(members[name])} networks"
            )
            if members.get(name)
            else ""
            for name in ("ensemble", "seeds")
        },
    }


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


def explain_letter(name: str) -> str:
    """What Unicode calls a class name that is one letter beyond ASCII, because many look alike; else ''."""
    return unicodedata.name(name, "").lower() if len(name) == 1 and not name.isascii() else ""


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names with their values."""
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        nested = isinstance(value, dict) and value and name != "options"
        flat += flatten_settings(value, f"{prefix}{name}.") if nested else [(prefix + name, value)]
    return flat
