"""Tables 4, 6, 7 and 8, on many classes: kanji (--data) and the embedded glyphs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.mnist import at_temperature
from benchmarks.paper.pictures import draw_coverage, draw_folded
from benchmarks.paper.results import Result, Row, accuracies, join_p, share_kept
from benchmarks.paper.runs import Run, execute, open_run, read_reports, vary
from raydistill.storage.files import read_json

KANJI: dict[str, Any] = {  # a generalist that underfits, as the paper's did after months of training
    "splits": {"confuse": 0.1, "tune": 0.05},
    "generalist": {
        "options": {"hidden": [96]},
        "shift": 1,
        "epochs": 6,
        "patience": None,
        "precision": "bfloat16",
    },
    "grouping": {"size": 200, "bootstraps": 0},
    "specialists": {
        "groups": 61,
        "shift": 1,
        "epochs": 8,
        "patience": None,
        "learning_rate": 3e-3,
        "batch_size": 256,
        "precision": "bfloat16",
    },
    "student": {"shift": 1, "epochs": 40, "weight_decay": 0.1, "precision": "bfloat16"},
    "targets": {"views": 4},
}
GLYPHS: dict[str, Any] = {
    "generalist": {"epochs": 16, "patience": None},
    "grouping": {"size": 120, "bootstraps": 0},
    "specialists": {"epochs": 12, "patience": None, "learning_rate": 3e-3},
    "student": {"shift": 1, "epochs": 40},
    "targets": {"views": 4, "dense_classes": 2, "top_k": 64},
}
SETTINGS = {"kanji": KANJI, "glyphs": GLYPHS}
CONVERGED = 40  # passes of the generalist that has converged
QUARTER = {"kanji": [24], "glyphs": [24]}
CHOSEN = {  # on training typefaces left out for it; on the tune split of seed 7
    "kanji": at_temperature(1.5, 0.5),
    "glyphs": at_temperature(1.5, 0.8),
}
MODELS = ("generalist", "ensemble", "seeds", "student", "labels_only", "generalist_targets", "seeds_targets")
EQUAL_COMPUTE = {"kanji": 19, "glyphs": 10}  # generalists that cost at least as much as generalist and specialists


def make_seeds(data: Path | None, folder: Path, seeds: Sequence[int], at_once: int) -> Result:
    """Table 4."""
    net = {"options": {"hidden": [256, 256]}, "shift": 1, "precision": "bfloat16"}
    runs = [
        Run(
            f"seeds-{seed}",
            {
                "data": "glyphs",
                "seed": seed,
                "generalist": {**net, "epochs": 16, "patience": None},
                "teacher": {"kind": "seeds", "seeds": 10},
                "targets": {"views": 9, "dense_classes": 2, "top_k": 64},
                "search": at_temperature(1.5, 0.8),  # by the tune split of seed 7
                "student": {**net, "epochs": 40},
                "cluster": {"backend": "none"},
            },
        )
        for seed in seeds
    ]
    geometric = [
        vary(run, f"{run.name}-geometric", teacher={"mean": "geometric"}, student={"controls": False}) for run in runs
    ]
    minutes = execute([*runs, *geometric], folder, at_once)
    reports, others = (read_reports(folder, each) for each in (runs, geometric))
    single, arithmetic, student = (accuracies(reports, name) for name in ("generalist", "seeds", "student"))
    geometric_mean, geometric_student = (accuracies(others, name) for name in ("seeds", "student"))
    rows = [
        Row("single net", single, "%", "58.9 %"),
        Row("ensemble of ten, arithmetic mean", arithmetic, "%", "61.1 %"),
        Row("ensemble of ten, geometric mean", geometric_mean),
        Row("one net, distilled from the arithmetic mean", student, "%", "60.8 %"),
        Row("one net, distilled from the geometric mean", geometric_student),
        Row("control: the same net on labels only", accuracies(reports, "labels_only")),
        Row("control: the same net on a single net's targets", accuracies(reports, "generalist_targets")),
        Row("of the gain is kept, arithmetic", share_kept(single, arithmetic, student), "%", "more than 80 %", 0),
        Row("of the gain is kept, geometric", share_kept(single, geometric_mean, geometric_student), "%", "", 0),
    ]
    notes = [
        "Glyphs, 523 classes. All nets are 2×256 and see shifts by a pixel: the single net and the ten for 16 passes,"
        " student and controls for 40 passes of 9 views, T = 1.5, label weight 0.8.",
        "Student against labels only: McNemar p = " + join_p(reports, "student_vs_labels_only") + ". Labels on the same"
        " views, for as many passes, get as far: here these make the gain, not the ten nets.",
    ]
    return Result("seeds", "4. An ensemble of ten nets into one", rows, notes, seeds, minutes)


def make_runs(data: Path, seeds: Sequence[int]) -> dict[str, list[Run]]:
    """The runs of tables 6 and 7, by data."""
    sources = {"kanji": f"npz:{data}", "glyphs": "glyphs"}
    return {
        name: [
            Run(
                f"{name}-{seed}",
                {
                    **SETTINGS[name],
                    "data": source,
                    "seed": seed,
                    "teacher": {"seeds": EQUAL_COMPUTE[name]},
                    "search": CHOSEN[name],
                    "cluster": {"backend": "none"},
                },
            )
            for seed in seeds
        ]
        for name, source in sources.items()
    }


def converge(run: Run) -> Run:
    """The same with a generalist that has converged; its student is not asked for, and so learns for one pass only."""
    student = {"epochs": 1, "shift": 0, "controls": False}
    generalist = {"epochs": CONVERGED}
    return vary(
        run, f"{run.name}-converged", generalist=generalist, student=student, teacher={"seeds": 0}, targets={"views": 1}
    )


def make_specialists(data: Path, folder: Path, seeds: Sequence[int], at_once: int) -> Result:
    """Table 6; it shares its runs with table 7."""
    runs = make_runs(data, seeds)
    converged = {name: [converge(run) for run in several] for name, several in runs.items()}
    minutes = execute(
        [run for each in (runs, converged) for several in each.values() for run in several], folder, at_once
    )
    rows, notes, covered = [], [], {}
    for name, several in runs.items():
        reports = read_reports(folder, several)
        paper = name == "kanji"
        before, after = accuracies(reports, "generalist"), accuracies(reports, "ensemble")
        gain = [100 * (b / a - 1) for a, b in zip(before, after, strict=True)]
        inside = [covered_accuracy(report) for report in reports]
        rows += [
            Row(f"{name}: generalist", before, "%", "25.0 %" if paper else ""),
            Row(
                f"{name}: with {reports[0]['ensemble']['specialists']} specialists",
                after,
                "%",
                "26.1 %" if paper else "",
            ),
            Row(f"{name}: relative gain", gain, "%", "+4.4 %" if paper else ""),
            Row(f"{name}: specialists' classes, generalist", [a for a, _ in inside], "%", "43.1 %" if paper else ""),
            Row(
                f"{name}: specialists' classes, with specialists",
                [b for _, b in inside],
                "%",
                "45.9 %" if paper else "",
            ),
            Row(
                f"{name}: {EQUAL_COMPUTE[name]} generalists of other seeds (equal compute or more)",
                accuracies(reports, "seeds"),
            ),
            *converged_rows(name, read_reports(folder, converged[name])),
        ]
        covered[name] = coverage_gains(reports)
        rows += coverage_rows(name, covered[name], paper)
        notes.append(f"{name}, ensemble against generalist: McNemar p = {join_p(reports, 'ensemble_vs_generalist')}.")
        notes.append(f"{name}, ensemble against the seed ensemble: p = {join_p(reports, 'ensemble_vs_seeds')}.")
        notes.append(tell_cost(name, folder, several))
    notes.append(
        "The goal of + 9 % over a converged generalist on kanji is missed: one of 40 passes leaves its specialists"
        " nothing on typefaces that none has seen. What they add to one of 6 passes is mostly training that it had"
        " not had (LOG.md, with what else was tried)."
    )
    picture = draw_coverage(covered, PAPER_COVERAGE)
    return Result("specialists", "6. Specialists on many classes", rows, notes, seeds, minutes, picture)


def tell_cost(name: str, folder: Path, runs: Sequence[Run]) -> str:
    """What the seed ensemble cost beside the specialists; both start from a generalist that is there already."""
    stages = [open_run(folder, run.name).read_manifest()["stages"] for run in runs]
    ratios = ", ".join(f"{stage['seeds']['seconds'] / stage['specialists']['seconds']:.1f}" for stage in stages)
    return f"{name}: training the other seeds took {ratios} times as long as training the specialists."


def converged_rows(name: str, reports: Sequence[dict[str, Any]]) -> list[Row]:
    """The same specialists over a generalist that has converged."""
    before, after = accuracies(reports, "generalist"), accuracies(reports, "ensemble")
    gain = [100 * (b / a - 1) for a, b in zip(before, after, strict=True)]
    return [
        Row(f"{name}: generalist of {CONVERGED} passes", before),
        Row(f"{name}: the same with specialists", after),
        Row(f"{name}: relative gain over it", gain),
    ]


def make_folded(data: Path, folder: Path, seeds: Sequence[int], at_once: int) -> Result:
    """Table 7."""
    runs = make_runs(data, seeds)
    quarters = {
        name: [
            vary(run, f"{run.name}-quarter", student={"options": {"hidden": QUARTER[name]}, "controls": False})
            for run in several
        ]
        for name, several in runs.items()
    }
    every = [run for each in (runs, quarters) for several in each.values() for run in several]
    minutes = execute(every, folder, at_once)
    rows, notes, shown = [], [], {}
    for name, several in runs.items():
        reports = read_reports(folder, several)
        small = read_reports(folder, quarters[name])
        before, after, student = (accuracies(reports, model) for model in ("generalist", "ensemble", "student"))
        rows += [
            Row(f"{name}: generalist", before),
            Row(f"{name}: generalist and {reports[0]['ensemble']['specialists']} specialists", after),
            Row(
                f"{name}: {EQUAL_COMPUTE[name]} generalists of other seeds (equal compute or more)",
                accuracies(reports, "seeds"),
            ),
            Row(f"**{name}: student of the generalist's architecture**", student),
            Row(f"{name}: control, labels only", accuracies(reports, "labels_only")),
            Row(f"{name}: control, generalist's targets", accuracies(reports, "generalist_targets")),
            Row(f"{name}: control, the seed ensemble's targets", accuracies(reports, "seeds_targets")),
            Row(f"{name}: of the specialists' gain is kept", share_kept(before, after, student), "%", "", 0),
            Row(f"{name}: student of a quarter of the size", accuracies(small, "student")),
        ]
        shown[name] = {model: accuracies(reports, model) for model in MODELS} | {
            "student of a quarter": accuracies(small, "student")
        }
        for other in ("ensemble", "labels_only", "generalist_targets", "seeds_targets"):
            p_values = join_p(reports, f"student_vs_{other}")
            notes.append(f"{name}, student against {other.replace('_', ' ')}: McNemar p = {p_values}.")
        notes.append(tell_cost(name, folder, several))
    notes += [
        "All of the specialists' gain is kept, in the mean over the seeds. The goal of being above every control is not"
        " met against the seed ensemble's targets on kanji, nor on every seed of glyphs: on unseen typefaces seeds are"
        " the stronger teacher, and at the label weight that is best for the student, a generalist's targets come close"
        " (LOG.md).",
        "Settings were chosen on training typefaces left out for it (kanji) and on the tune split (glyphs); but with"
        " earlier ones (kanji: 2×192 units; glyphs: a generalist of 6 passes, label weights of 0.5 and 0.9) seed 0 was"
        " read to the end before, and glyphs' change to 16 passes came after it.",
    ]
    title = "7. Folded back: the specialists in one net"
    return Result("folded", title, rows, notes, seeds, minutes, draw_folded(shown))


ABLATIONS: dict[str, dict[str, Any]] = {
    "dustbin: the paper's single unit": {"specialists": {"dustbin": "single"}},
    "dustbin: soft targets for other classes (section 6.1)": {"specialists": {"dustbin": "soft"}},
    "overlap: none": {"grouping": {"overlap": 0.0}},
    "overlap: the group's own size": {"grouping": {"overlap": 1.0}},
    "groups: 8": {"specialists": {"groups": 8}},
    "groups: 32": {"specialists": {"groups": 32}},
    "groups: 64": {"specialists": {"groups": 64}},
    "grouping: k-means on the covariance": {"grouping": {"method": "kmeans"}},
    "grouping: random, same sizes": {"grouping": {"method": "random"}},
    "specialists asked: of the 2 most probable classes": {"ensemble": {"top_n": 2}},
    "specialists asked: of the 3 most probable classes": {"ensemble": {"top_n": 3}},
    "specialists asked: of the 5 most probable classes": {"ensemble": {"top_n": 5}},
    "prior correction: off": {"specialists": {"prior_correction": False}},
}


def make_ablation(data: Path | None, folder: Path, seeds: Sequence[int], at_once: int) -> Result:
    """Table 8, on the tune split: the test split is not for choosing defaults."""
    bases = [
        Run(f"ablation-{seed}", {"data": "glyphs", "seed": seed, "cluster": {"backend": "none"}}, until="ensemble")
        for seed in seeds
    ]
    varied = {
        name: [vary(base, f"{base.name}-{slug(name)}", **changes) for base in bases]
        for name, changes in ABLATIONS.items()
    }
    minutes = execute([*bases, *(run for several in varied.values() for run in several)], folder, at_once)

    def gains(runs: Sequence[Run], figure: str, scale: float) -> list[float]:
        found = [read_json(open_run(folder, run.name).stage_folder("ensemble") / "ensemble.json") for run in runs]
        return [scale * (summary["ensemble"][figure] - summary["generalist"][figure]) for summary in found]

    rows = [
        Row("**defaults**: merged, overlap by half, 16 spectral groups, n = 1", gains(bases, "accuracy", 100), "points")
    ]
    rows += [Row(name, gains(runs, "accuracy", 100), "points") for name, runs in varied.items()]
    losses = {name: gains(runs, "loss", 1) for name, runs in {"defaults": bases, **varied}.items()}
    notes = [
        "What specialists add to the generalist's accuracy on the tune split of the glyphs; the test split is not read."
    ]
    title = "8. What matters"
    return Result("ablation", title, rows, notes, seeds, minutes, details={"change of the loss in nats": losses})


def covered_accuracy(report: dict[str, Any]) -> tuple[float, float]:
    """Accuracy in % of generalist and ensemble on test examples whose class some specialist knows."""
    covered = [row for row in report["coverage"] if row["specialists"] > 0]
    total = sum(row["examples"] for row in covered)
    before, after = (
        100 * sum(row["examples"] * row[f"{name}_accuracy"] for row in covered) / total
        for name in ("generalist", "ensemble")
    )
    return before, after


PAPER_COVERAGE = {1: 3.4, 2: 7.4, 3: 8.8, 4: 10.5, 5: 11.1, 6: 11.3, 7: 12.8, 8: 13.6, 9: 16.6, 10: 14.1}


def coverage_gains(reports: Sequence[dict[str, Any]]) -> dict[int, list[float]]:
    """The paper's table 4: relative gain in % by the number of specialists that know the true class, for each seed."""
    gains = [{row["specialists"]: row["relative_gain"] for row in report["coverage"]} for report in reports]
    numbers = sorted({number for each in gains for number in each} - {0})
    return {n: [100 * each[n] if each.get(n) is not None else math.nan for each in gains] for n in numbers}


def coverage_rows(name: str, gains: Mapping[int, Sequence[float]], paper: bool) -> list[Row]:
    """A line for each number of covering specialists."""
    return [
        Row(
            f"{name}: relative gain, class of {covering}{' or more' if covering == 10 else ''} specialists",
            [None if math.isnan(value) else value for value in values],
            "%",
            f"+{PAPER_COVERAGE[covering]} %" if paper else "",
            1,
        )
        for covering, values in gains.items()
    ]


def slug(name: str) -> str:
    """A file name for a variant."""
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()
