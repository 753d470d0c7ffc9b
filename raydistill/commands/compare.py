"""raydistill compare: finished runs side by side, in the terminal or as JSON.

Comes in: run folders. Goes out: text, from what report/side_by_side.py found.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from raydistill.display import format_seconds
from raydistill.storage.job import settle

NAMES = {
    "labels_only": "control: labels only",
    "generalist_targets": "control: generalist's targets",
    "seeds_targets": "control: seeds' targets",
}
FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("test_accuracy", "test accuracy", lambda value: f"{value:.2%}"),
    ("test_nll", "test loss, nats", lambda value: f"{value:.4f}"),
    ("test_calibration_error", "calibration error", lambda value: f"{value:.2%}"),
    ("parameters", "parameters", lambda value: f"{value:,}"),
)
LONGEST_VALUE = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raydistill compare`."""
    parser.add_argument("folders", nargs="+", type=settle, metavar="DIR", help="two or more finished run folders")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run_compare(given: argparse.Namespace) -> int:
    """Compare and print. Raises RunFolderError."""
    from raydistill.report.side_by_side import compare_many
    from raydistill.storage.run_folder import RunFolder

    found = compare_many([RunFolder(folder) for folder in given.folders])
    print(json.dumps(found, indent=1, ensure_ascii=False) if given.json else format_comparison(found))
    return 0


def format_comparison(found: dict[str, Any]) -> str:
    """All of it as text: runs, settings, figures, significance, cost."""
    letters = [chr(ord("A") + place) if place < 26 else f"R{place + 1}" for place in range(len(found["runs"]))]
    runs = [f"{letter}: {location}" for letter, location in zip(letters, found["runs"], strict=True)]
    blocks = ["\n".join(runs), describe_settings(found, letters)]
    blocks += [block for figure in FIGURES if (block := describe_figure(found, letters, *figure))]
    blocks += [
        describe_pair(pair, letters[0], letter) for letter, pair in zip(letters[1:], found["pairs"], strict=True)
    ]
    stages = [
        [name, *("-" if value is None else format_seconds(value) for value in values)]
        for name, values in found["stages"].items()
    ]
    totals = [sum(filter(None, column)) for column in zip(*found["stages"].values(), strict=True)]
    blocks.append(format_rows([["seconds by stage", *letters], *stages, ["together", *map(format_seconds, totals)]]))
    return "\n\n".join(blocks)


def describe_settings(found: dict[str, Any], letters: Sequence[str]) -> str:
    """Settings, versions and data that are not the same."""
    rows = [[name, *map(_shorten, values)] for name, values in found["settings"].items()]
    rows += [["raydistill", *found["versions"]]] if len(set(found["versions"])) > 1 else []
    for name in ("examples", "classes"):
        values = [data[name] for data in found["data"]]
        rows += [[f"({name} of the data)", *(f"{value:,}" for value in values)]] if len(set(values)) > 1 else []
    if not rows:
        return "settings: all the same"
    return format_rows([["settings that differ", *letters], *rows])


def describe_figure(
    found: dict[str, Any], letters: Sequence[str], figure: str, title: str, show: Callable[[float], str]
) -> str:
    """One figure of all models."""
    rows = [
        [
            NAMES.get(name, name),
            *("-" if model is None or model[figure] is None else show(model[figure]) for model in models),
        ]
        for name, models in found["models"].items()
    ]
    return format_rows([[title, *letters], *rows])


def describe_pair(pair: dict[str, Any], first: str, second: str) -> str:
    """Whether the models of the same name differ in two runs, on the test examples that both have."""
    lines = [describe_shared(pair, first, second)]
    rows = [
        [
            NAMES.get(name, name),
            f"{model['difference']:+.2%}",
            f"{model['interval'][0]:+.2%} to {model['interval'][1]:+.2%}",
            f"{model['first_only_right']}",
            f"{model['second_only_right']}",
            f"{model['p_value']:.2g}",
        ]
        for name, model in pair["models"].items()
    ]
    if rows:
        head = [f"{second} less {first}", "accuracy", "95 % interval", f"{second} alone right", f"{first} alone right"]
        lines.append(format_rows([[*head, "p (McNemar)"], *rows]))
    return "\n".join(lines)


def describe_shared(pair: dict[str, Any], first: str, second: str) -> str:
    """Whether the test examples are the same, and what does not compare where they are not."""
    if pair["same"]:
        return f"{first} and {second} have the same {pair['shared']:,} test examples, so that the figures compare."
    sizes = f"{first} has {pair['tests'][0]:,}, {second} {pair['tests'][1]:,}"
    if pair["shared"]:
        return (
            f"{first} and {second} have other test examples ({sizes}; {pair['shared']:,} are in both): the figures"
            " above are of other examples and do not compare;"
            f" the differences below are on the {pair['shared']:,} alone."
        )
    return (
        f"{first} and {second} share no test example ({sizes}): no figure of one compares with the other's."
        " Give both runs the same data, splits and seed, or a test set of its own (x_test)."
    )


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else f"…{text[1 - LONGEST_VALUE :]}"
