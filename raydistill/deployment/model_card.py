"""The model card of an exported student: a README.md as the Hugging Face Hub reads it.

Comes in: a run with its report, and what config.json says. Goes out: Markdown with YAML in front. Nothing in it is
invented: what the run does not know, such as a licence, is said to be unknown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from raydistill.data.arrays import read_split
from raydistill.data.new_images import find_sides
from raydistill.data.splits import SPLITS
from raydistill.deployment.quantise import describe_cost
from raydistill.errors import RunFolderError
from raydistill.report.table import list_models, list_weighted, read_report
from raydistill.stages.roles import STUDENT
from raydistill.storage.files import read_json
from raydistill.storage.run_folder import RunFolder
from raydistill.version import __version__

LIBRARY = "raydistill"
MARK = f"library_name: {LIBRARY}\n"
SHOWN_CLASSES, SHOWN_GROUPS = 100, 40
ONNX_CALLS = 'onnxruntime.InferenceSession("{name}").run(["logits"], {{"x": batch}})'
CALLS = {
    "student.safetensors": (
        "import raydistill",
        "",
        'student = raydistill.load_exported(".")  # this folder',
        "logits = student(batch)",
        "names = [student.class_names[index] for index in logits.argmax(1)]",
    ),
    "student.pt2": ("import torch", "", 'logits = torch.export.load("student.pt2").module()(batch)'),
    "student.onnx": ("import onnxruntime", "", f"(logits,) = {ONNX_CALLS.format(name='student.onnx')}"),
    "student.int8.onnx": ("import onnxruntime", "", f"(logits,) = {ONNX_CALLS.format(name='student.int8.onnx')}"),
}
"""What to write for each file."""


def is_card(path: Path) -> bool:
    """Whether a file is a model card of ours."""
    try:
        with open(path, encoding="utf-8") as file:
            return MARK in file.read(4096)
    except (OSError, UnicodeDecodeError):
        return False


def write_card(run: RunFolder, described: dict[str, Any], folder: Path, licence: str | None = None) -> str:
    """The whole card. described: config.json's values; folder: of the exported files; licence: its name, or None."""
    try:
        report = read_report(run)
    except RunFolderError:
        report = None
    settings = run.read_config()
    source = name_source(settings.data)
    front = describe_front(described, source, report, licence)
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"# A student of {source}",
        describe_use_intended(described, source),
        describe_results(report),
        describe_groups(report),
        describe_data(run, described, source),
        describe_training(run, described, report),
        describe_licence(licence),
        describe_calls(described, folder),
    ]
    return f"---\n{text}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def name_source(data: str) -> str:
    """The data's name, without the folders where they lie."""
    kind, _, name = data.partition(":")
    return f"{kind}:{Path(name).name}" if name and kind not in ("openml", "hf") else data


def describe_front(
    described: dict[str, Any], source: str, report: dict[str, Any] | None, licence: str | None
) -> dict[str, Any]:
    """The YAML in front, as the Hub wants it."""
    images = find_sides(tuple(described["input_shape"])) is not None
    task = "image-classification" if images else "tabular-classification"
    front: dict[str, Any] = {"license": licence} if licence else {}
    front |= {"library_name": LIBRARY, "pipeline_tag": task, "tags": ["knowledge-distillation", "specialists"]}
    if report is None:
        return front
    student = report["student"]
    figures = {
        "accuracy": ("Test accuracy", student["test_accuracy"]),
        "nll": ("Test loss, nats", student["test_nll"]),
        "ece": ("Test calibration error", student["test_calibration_error"]),
    }
    result = {
        "task": {"type": task},
        "dataset": {"name": source, "type": source, "split": "test"},
        "metrics": [{"type": kind, "name": name, "value": value} for kind, (name, value) in figures.items()],
    }
    return front | {"model-index": [{"name": f"student of {source}", "results": [result]}]}


def describe_use_intended(described: dict[str, Any], source: str) -> str:
    """What it does, and what is not known of it."""
    shape = "x".join(map(str, described["input_shape"]))
    return (
        f"It sorts examples of {shape} {described['dtype']} numbers into {len(described['classes']):,} classes, with"
        f" {described['parameters']:,} parameters. raydistill {__version__} trained it on `{_plain(source)}`.\n\n"
        "## Intended use\n\n"
        f"Examples like those of `{_plain(source)}`, made in the same way. It answers every input with one of its"
        " classes, also one that belongs to none of them. Its figures were measured on the test split of these data"
        " alone; how it does on others, and whether it treats groups of people alike, has not been measured."
    )


def describe_results(report: dict[str, Any] | None) -> str:
    """The models of the report side by side, and the verdict."""
    if report is None:
        return "## Results\n\nNot measured: the run has no report yet."
    weighted = [name for name, _ in list_weighted(report, report["generalist"])]
    head = ["", "accuracy", *weighted, "top-5", "loss, nats", "calibration error", "parameters"]
    lines = [
        "## Results",
        "",
        f"On {report['data']['splits']['test']:,} test examples, which no training and no choice has seen:",
        "",
        f"|{' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for name, figures in list_models(report):
        top5 = "" if figures["test_top5"] is None else f"{figures['test_top5']:.2%}"
        cells = [f"{figures['test_accuracy']:.2%}", *(value for _, value in list_weighted(report, figures))]
        cells += [top5, f"{figures['test_nll']:.4f}"]
        cells += [f"{figures['test_calibration_error']:.2%}", f"{figures['parameters']:,}"]
        lines.append(f"| {_plain(name)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {_plain(sentence)}" for sentence in report["verdict"]["sentences"])])


def describe_groups(report: dict[str, Any] | None) -> str:
    """The groups of classes that had a specialist."""
    groups = (report or {}).get("groups")
    if not groups:
        return ""
    lines = ["## Groups", "", "Classes that the generalist confuses, each group with a specialist that taught:", ""]
    lines += ["| group | test examples | generalist | ensemble | student |", "|---|---|---|---|---|"]
    for group in groups[:SHOWN_GROUPS]:
        shares = [_format_share(group.get(f"{name}_accuracy")) for name in ("generalist", "ensemble", "student")]
        lines.append(f"| {_plain(group['name'])} | {group['test_examples']:,} | {' | '.join(shares)} |")
    if len(groups) > SHOWN_GROUPS:
        lines.append(f"\n… and {len(groups) - SHOWN_GROUPS} more.")
    return "\n".join(lines)


def _format_share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def describe_data(run: RunFolder, described: dict[str, Any], source: str) -> str:
    """Source, splits, classes, normalisation and how images are decoded."""
    splits = {name: len(read_split(run, name)) for name in SPLITS}
    normalisation, names = described["normalisation"], described["classes"]
    shown = ", ".join(f"`{_plain(name)}`" for name in names[:SHOWN_CLASSES])
    more = f" … and {len(names) - SHOWN_CLASSES:,} more (config.json)" if len(names) > SHOWN_CLASSES else ""
    lines = [
        "## Data",
        "",
        f"- Source: `{_plain(source)}`; splits: {', '.join(f'{name} {count:,}' for name, count in splits.items())}",
        f"- Numbers are normalised in the network: mean {normalisation['mean']}, deviation {normalisation['std']}",
    ]
    images = described["images"]
    if images:
        form, white = images["form"], f", white is {images['peak']:g}" if images["peak"] != 255 else ""
        channels = "grey" if form["channels"] == 1 else "RGB"
        lines.append(f"- Images: {form['size']} pixels, {channels}, {form['resize']}{white}")
    return "\n".join([*lines, f"- Classes: {shown}{more}"])


def describe_training(run: RunFolder, described: dict[str, Any], report: dict[str, Any] | None) -> str:
    """How the student came to be."""
    config = run.read_config()
    best = read_json(run.stage_folder("search") / "search.json")["best"]
    history = read_json(run.student_folder("student") / "training.json")["history"]
    teachers = {"specialists": "a generalist with specialists, combined by equation 5 of Hinton, Vinyals, Dean 2015"}
    teachers |= {"seeds": "an ensemble of generalists of different seeds", "generalist": "a generalist"}
    lines = [
        "## Training",
        "",
        f"- Teacher: {teachers.get(config.teacher.kind, config.teacher.kind)}",
        f"- Distillation at temperature {best['temperature']:.4g}, label weight {best['label_weight']:.4g}",
        f"- {len(history)} passes over the transfer set" + _count_transfer(report) + f", seed {config.seed}",
        *(["- It started from the weights of an earlier run's student"] if _started_warm(report) else []),
        f"- Network: `{_plain(described['model'])}`, options `{_plain(json.dumps(described['options']))}`",
        f"- raydistill {__version__}",
    ]
    return "\n".join(lines)


def _count_transfer(report: dict[str, Any] | None) -> str:
    return "" if report is None else f" of {report['transfer']['examples']:,} examples"


def _started_warm(report: dict[str, Any] | None) -> bool:
    return f"student/{STUDENT}" in (report or {}).get("grown", {}).get("warm", [])


def describe_licence(licence: str | None) -> str:
    """The licence as it was given, or that none was."""
    return f"## Licence\n\n{_plain(licence)}" if licence else "## Licence\n\nNone was stated when this was exported."


def describe_calls(described: dict[str, Any], folder: Path) -> str:
    """How to use the files of the folder."""
    shape = ", ".join(map(str, described["input_shape"]))
    lines = ["## Use", "", f"`batch` is ({described['dtype']}) of shape (N, {shape}); `logits` has shape"]
    lines[-1] += f" (N, {len(described['classes'])}), in the order of `classes` in config.json."
    for name, calls in CALLS.items():
        if (folder / name).exists():
            lines += ["", "```python", *calls, "```"]
    if (folder / "int8.json").exists():
        cost = describe_cost(read_json(folder / "int8.json"))
        lines += ["", f"student.int8.onnx has its weights in 8-bit integers; measured when it was made: {cost}."]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text from elsewhere, such as a class's name: in one line, and no Markdown or HTML."""
    kept = " ".join(text.split())
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "'")):
        kept = kept.replace(mark, entity)
    return kept
