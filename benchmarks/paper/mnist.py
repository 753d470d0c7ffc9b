"""Tables 1, 2, 3 and 5, on MNIST: one teacher for each seed, and students that start from its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.pictures import draw_temperatures
from benchmarks.paper.results import Result, Row, accuracies, share_kept
from benchmarks.paper.runs import Run, execute, read_reports, vary

TEACHER = {
    "options": {"hidden": [1200, 1200], "dropout": 0.25, "input_dropout": 0.1},
    "max_norm": 4.0,
    "shift": 2,
    "epochs": 80,
    "patience": None,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "precision": "bfloat16",
}
STUDENT = {"options": {"hidden": [800, 800]}, "epochs": 40, "learning_rate": 1e-3, "weight_decay": 0.0}
PRECISION = {"precision": "bfloat16"}
WIDTHS = (30, 100, 300, 800)
TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 8.0, 20.0, 50.0)
TEST_SIZE = 10_000


def at_temperature(temperature: float, label_weight: float = 0.0) -> dict[str, Any]:
    """Settings of a search that has nothing to search."""
    return {"temperature": [temperature] * 2, "label_weight": [label_weight] * 2}


def plain_run(data: Path, seed: int) -> Run:
    """Table 1's run: the teacher, the student on labels, the student at T = 20 without jitter."""
    settings = {
        "data": f"npz:{data}",
        "seed": seed,
        "splits": {"confuse": 0.05, "tune": 0.05},
        "teacher": {"kind": "generalist"},
        "generalist": TEACHER,
        "search": at_temperature(20.0),
        "student": {**STUDENT, **PRECISION},
        "cluster": {"backend": "none"},
    }
    return Run(f"mnist-{seed}", settings)


def make_mnist(data: Path, folder: Path, seeds: Sequence[int], at_once: int) -> Result:
    """Table 1."""
    plain = [plain_run(data, seed) for seed in seeds]
    views = {"student": {"shift": 2, "controls": False, "epochs": 100}, "targets": {"views": 25}}
    jittered = [vary(run, f"{run.name}-views", **views) for run in plain]
    minutes = execute([*plain, *jittered], folder, at_once)
    reports = read_reports(folder, plain)
    with_views = read_reports(folder, jittered)

    def row(name: str, models: list[dict[str, Any]], paper: str) -> Row:
        return Row(name, [count_errors(model) for model in models], "errors", paper, 1)

    labels = [report["controls"]["labels_only"] for report in reports]
    rows = [
        row("teacher, 2×1200, dropout, max-norm, jitter of 2 pixels", [r["generalist"] for r in reports], "67"),
        row("student, 2×800, labels, no regularisation", labels, "146"),
        row("student, 2×800, soft targets at T = 20, no jitter", [r["student"] for r in reports], "74"),
        row("student, 2×800, soft targets of 25 views at T = 20, 100 passes", [r["student"] for r in with_views], ""),
    ]
    notes = [
        "10,000 test images; 54,000 train, 3,000 watch the teacher, 3,000 tune nothing here. The last row"
        " sees the teacher's answers to jittered images (views), and is not in the paper.",
        "Without jitter the student does not come down to 74: its teacher has more errors than the paper's and it has"
        " 54,000 images instead of 60,000; batches of 64, weight decay, float32 and a lower learning rate did not help"
        " (LOG.md). With views it equals its teacher.",
        "Settings were chosen on held-out images, but for the teacher's passes and the number of views: with other ones"
        " (40, 60 and 100 passes; 9 views, 40 passes of the student: 83 errors) seed 0 was read to the end before.",
    ]
    return Result("mnist", "1. MNIST: a big net into a small one", rows, notes, seeds, minutes)


def make_temperature(data: Path, folder: Path, seeds: Sequence[int], at_once: int) -> Result:
    """Table 2."""
    plain = [plain_run(data, seed) for seed in seeds]
    runs = {
        (width, temperature, run.settings["seed"]): vary(
            run,
            f"{run.name}-{width}-T{temperature:g}",
            student={"options": {"hidden": [width, width]}, "epochs": 15, "controls": False},
            search=at_temperature(temperature),
        )
        for run in plain
        for width in WIDTHS
        for temperature in TEMPERATURES
    }
    minutes = execute([*plain, *runs.values()], folder, at_once)
    reports = read_reports(folder, list(runs.values()))
    errors = {key: count_errors(report["student"]) for key, report in zip(runs, reports, strict=True)}
    rows = [
        Row(
            f"{width} units a layer, T = {temperature:g}",
            [errors[width, temperature, s] for s in seeds],
            "errors",
            "",
            1,
        )
        for width in WIDTHS
        for temperature in TEMPERATURES
    ]
    mean = {width: [np.mean([errors[width, t, s] for s in seeds]) for t in TEMPERATURES] for width in WIDTHS}
    best = {width: TEMPERATURES[int(np.argmin(mean[width]))] for width in WIDTHS}
    notes = [
        "The paper: with 300 or more units a layer all temperatures above 8 are alike; with 30 units 2.5 to 4 is best.",
        "Here the best is " + ", ".join(f"T = {best[width]:g} for {width} units" for width in WIDTHS) + ".",
        "So both ends hold in kind: a wide student loses nothing above T = 8, a narrow one wants a low temperature; for"
        " 30 units an even lower one than in the paper.",
        "Soft targets alone, no jitter, 15 passes; teachers are those of table 1.",
    ]
    picture = draw_temperatures(
        TEMPERATURES, {w: [[errors[w, t, s] for s in seeds] for t in TEMPERATURES] for w in WIDTHS}
    )
    title = "2. Temperature and width of the student"
    return Result("temperature", title, rows, notes, seeds, minutes, picture)


def make_absent(data: Path, folder: Path, seeds: Sequence[int], at_once: int) -> Result:
    """Table 3."""
    plain = [plain_run(data, seed) for seed in seeds]
    student = {"controls": False}
    without = [vary(run, f"{run.name}-without-3", transfer={"without": ["3"]}, student=student) for run in plain]
    shown = [
        vary(run, f"{run.name}-views", student={"shift": 2, "epochs": 100}, targets={"views": 25}) for run in without
    ]
    only = [vary(run, f"{run.name}-only-7-8", transfer={"only": ["7", "8"]}, student=student) for run in plain]
    minutes = execute([*plain, *without, *only, *shown], folder, at_once)
    threes, sevens, with_views = (
        [report["student"] for report in read_reports(folder, runs)] for runs in (without, only, shown)
    )
    before_views = [student["repair"]["unrepaired"] for student in with_views]
    before = [student["repair"]["unrepaired"] for student in threes]
    offsets = [student["repair"]["offsets"][0] for student in threes]
    before_sevens = [student["repair"]["unrepaired"] for student in sevens]
    rows = [
        Row("no 3 in the transfer set", list(map(count_errors, before)), "errors", "206", 1),
        Row("the same, bias of 3 repaired", list(map(count_errors, threes)), "errors", "109", 1),
        Row("what was added to the bias of 3", offsets, "nats", "3.5"),
        Row("no 3, soft targets of 25 views, 100 passes", list(map(count_errors, before_views)), "errors", "", 1),
        Row("the same, bias of 3 repaired", list(map(count_errors, with_views)), "errors", "", 1),
        Row(
            "only 7 and 8 in the transfer set",
            [100 - 100 * s["test_accuracy"] for s in before_sevens],
            "% errors",
            "47.3",
        ),
        Row("the same, biases repaired", [100 - 100 * s["test_accuracy"] for s in sevens], "% errors", "13.2"),
    ]
    notes = [
        "The biases of absent classes are fitted on the tune split, 3,000 images; the paper tuned them on test.",
        "Of 7s and 8s only, the paper lowered these two biases by one number; here the eight others are each raised.",
        "Without views the paper's 109 is missed by a few errors, by a student that is stronger without the 3 to begin"
        " with; the paper's offset was chosen on the test images.",
    ]
    return Result("absent", "3. Classes never seen, their biases repaired", rows, notes, seeds, minutes)


def make_regulariser(data: Path, folder: Path, seeds: Sequence[int], at_once: int) -> Result:
    """Table 5."""
    plain = [plain_run(data, seed) for seed in seeds]
    share, student = {"share": 0.03}, {"epochs": 400, "batch_size": 64}
    small = [vary(run, f"{run.name}-share", transfer=share, student=student) for run in plain]
    early = [vary(run, f"{run.name}-early", student={"labels_patience": 20}) for run in small]
    shown = [vary(run, f"{run.name}-views", student={"shift": 2}, targets={"views": 9}) for run in small]
    minutes = execute([*plain, *small, *early, *shown], folder, at_once)
    everything, reports, stopped, with_views = (read_reports(folder, runs) for runs in (plain, small, early, shown))
    whole, full, early_labels, labels_views = (
        accuracies(each, "labels_only") for each in (everything, reports, stopped, with_views)
    )
    labels = [max(pair) for pair in zip(full, early_labels, strict=True)]  # the stronger baseline
    soft, soft_views = (accuracies(each, "student") for each in (reports, with_views))
    rows = [
        Row("all data, labels", whole, "%", "58.9 %"),
        Row("3 % of the data, labels, early stopping", early_labels, "%", "44.5 %"),
        Row("3 % of the data, labels, no early stopping", full),
        Row("3 % of the data, soft targets, no early stopping", soft, "%", "57.0 %"),
        Row("of the accuracy lost with the better labels comes back", share_kept(labels, whole, soft), "%", "87 %", 0),
        Row("3 % of the data, soft targets of 9 views, no early stopping", soft_views),
        Row(
            "of the accuracy lost with the better labels comes back", share_kept(labels, whole, soft_views), "%", "", 0
        ),
        Row("control: 3 % of the data, labels, the same 9 views", labels_views),
        Row("of the accuracy lost by this control comes back", share_kept(labels_views, whole, soft_views), "%", "", 0),
    ]
    notes = [
        "MNIST: 1,620 of 54,000 training images. The paper has 3 % of 700 million frames of speech. So few images do"
        " not show what the teacher knows: alone they bring back less than the paper's share. Asked about jittered"
        " views of the same images as well, it brings back nearly all, of what labels lose on these views too.",
    ]
    return Result("regulariser", "5. Soft targets as a regulariser", rows, notes, seeds, minutes)


def count_errors(figures: dict[str, Any]) -> float:
    """Test errors of a model."""
    return round(TEST_SIZE * (1 - figures["test_accuracy"]), 6)
