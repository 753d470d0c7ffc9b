"""The pictures of the report, as SVG text that a page can hold. Matplotlib draws them; no window, no global state.

Comes in: figures as they stand in report.json, and arrays. Goes out: SVG. Names of classes stay out of the pictures:
the page shows them as text, in whatever script they are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.sparse import csr_array

from raydistill.files import Array, Sparse
from raydistill.report.answers import Answers
from raydistill.report.table import CONTROLS

INK, FAINT, GRID = "#1f2933", "#8896a5", "#e4e8ee"
COLOURS = {
    "generalist": "#8896a5",
    "ensemble": "#7a4fbf",
    "seeds": "#3d6fb4",
    "student": "#0b7a75",
    "labels_only": "#d98c1f",
    "generalist_targets": "#b8573c",
    "seeds_targets": "#b0478a",
}
LABELS = {
    "generalist": "generalist",
    "ensemble": "ensemble",
    "seeds": "ensemble of seeds",
    "student": "student",
    **{name: f"control: {text}" for name, text in CONTROLS.items()},
}
STYLE: Any = {  # of rc_context, whose keys are literals
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "raydistill",
}
MEMBERS = {"ensemble": "specialist", "seeds": "other generalist"}
History = Sequence[Mapping[str, float]]
"""What training.json holds of each pass."""
MOST_PIXELS = 500  # of a side of a confusion matrix; with more classes, several share one


def order_classes(members: Array, affinity: Sparse | Array) -> tuple[Array, list[int]]:
    """Class numbers in group order, and where each group ends; a class counts to the group it is most confused with.

    members: boolean (M, K); affinity: (K, K), sparse or dense. Classes of no group come last.
    """
    pull = (csr_array(members, dtype=np.float64) @ csr_array(affinity)).toarray()  # (M, K)
    pull = np.where(members, pull + 1e-12, 0.0)
    home = np.where(members.any(axis=0), pull.argmax(axis=0), len(members))
    ends = np.cumsum(np.bincount(home, minlength=len(members)))[: len(members)]
    return np.argsort(home, kind="stable"), ends.tolist()


def draw_accuracies(models: Mapping[str, float], examples: int) -> str:
    """Test accuracy of each model, with its 95 % interval (normal approximation)."""
    with rc_context(STYLE):
        figure, axes = make_figure(6.4, 0.42 * len(models) + 0.75)
        bottom_up = list(reversed(list(models.items())))
        for place, (name, accuracy) in enumerate(bottom_up):
            half = 1.96 * (accuracy * (1 - accuracy) / examples) ** 0.5
            axes.plot([accuracy - half, accuracy + half], [place, place], color=COLOURS[name], lw=2.2, alpha=0.45)
            axes.plot(accuracy, place, "o", color=COLOURS[name], ms=7)
            axes.annotate(f"{accuracy:.2%}", (accuracy, place), (0, 7), textcoords="offset points", ha="center")
        axes.set_yticks(range(len(models)), [LABELS[name] for name, _ in bottom_up])
        axes.set_ylim(-0.5, len(models) - 0.3)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.margins(x=0.12)
        axes.grid(axis="x")
        axes.set_xlabel("test accuracy, with its 95 % interval; paired tests are in the text")
        return to_svg(figure)


def draw_confusions(models: Mapping[str, Answers], order: Array, ends: Sequence[int]) -> str:
    """Errors of each model, true class down and predicted class across, a box around each group.

    order: class numbers, the groups' classes together; ends: where each group ends in it, none for no boxes.
    """
    pictures = {name: count_errors(answers, order) for name, answers in models.items()}
    most = max(2.0, *(float(picture.max()) for picture in pictures.values()))
    with rc_context(STYLE):
        figure = Figure(figsize=(3.55 * len(models), 3.75), layout="constrained")
        panels = figure.subplots(1, len(models), squeeze=False)[0]
        for axes, (name, picture) in zip(panels, pictures.items(), strict=True):
            scale = len(picture) / len(order)
            shown = np.ma.masked_less_equal(picture, 0)
            image = axes.imshow(shown, cmap="magma_r", norm=LogNorm(0.5, most), interpolation="nearest")
            for start, end in pairwise([0, *ends]):
                box = np.array([start, end]) * scale - 0.5
                axes.plot(box[[0, 1, 1, 0, 0]], box[[0, 0, 1, 1, 0]], color="#0b7a75", lw=0.6, alpha=0.7)
            axes.set_title(f"{LABELS[name]}: {int(picture.sum()):,} errors")
            axes.set_xticks([])
            axes.set_yticks([])
        figure.colorbar(image, ax=list(panels), shrink=0.8, label="errors", fraction=0.03)
        return to_svg(figure)


def count_errors(answers: Answers, order: Array, most: int = MOST_PIXELS) -> Array:
    """Errors by true class (row) and predicted class (column), classes in the given order; right answers are left out.

    order: (K,) class numbers. Returns (P, P) counts, P = K, or at most `most` where several classes share a pixel.
    """
    block = -(-len(order) // most)
    pixels = -(-len(order) // block)
    pixel_of_class = np.empty(len(order), dtype=np.int64)
    pixel_of_class[order] = np.arange(len(order)) // block
    wrong = ~answers.correct
    true, said = (pixel_of_class[classes[wrong].numpy()] for classes in (answers.labels, answers.predicted))
    return np.bincount(true * pixels + said, minlength=pixels**2).reshape(pixels, pixels)


def draw_search(search: Mapping[str, Any]) -> str:
    """Each trial at its temperature and label weight, its colour the accuracy on the tune split when it ended."""
    trials, best = search["trials"], search["best"]
    with rc_context(STYLE):
        figure, axes = make_figure(5.4, 3.3)
        for stopped, marker in ((True, "v"), (False, "o")):
            chosen = [trial for trial in trials if trial["stopped_early"] == stopped]
            if not chosen:
                continue
            points = axes.scatter(
                [trial["temperature"] for trial in chosen],
                [trial["label_weight"] for trial in chosen],
                c=[trial["values"][-1] for trial in chosen],
                s=70,
                marker=marker,
                vmin=min(trial["values"][-1] for trial in trials),
                vmax=max(trial["values"][-1] for trial in trials),
                cmap="viridis",
                label="stopped early" if stopped else "full length",
            )
        axes.plot(best["temperature"], best["label_weight"], "o", ms=15, mfc="none", mec=INK, label="chosen")
        axes.set_xscale("log")
        ticks = [tick for tick in (0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50) if in_range(tick, search)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("temperature")
        axes.set_ylabel("label weight")
        axes.grid()
        figure.colorbar(points, format=PercentFormatter(1.0, decimals=1), label="accuracy, tune split")
        figure.legend(loc="outside upper left", ncols=3, markerscale=0.7)
        return to_svg(figure)


def in_range(tick: float, search: Mapping[str, Any]) -> bool:
    """Whether a tick lies in the searched range of temperatures."""
    low, high = search["space"]["temperature"]
    return bool(low * 0.99 <= tick <= high * 1.01)


def draw_curves(histories: Mapping[str, History], members: Mapping[str, Sequence[History]]) -> str:
    """Held-out accuracy of generalist, student and controls by pass; and of ensembles, each member's held-out loss.

    members: histories of all 'ensemble' members, or all of 'seeds', but the generalist; a panel for each.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(10.2, 3.3), layout="constrained")
        left, *others = figure.subplots(1, 1 + len(members), squeeze=False)[0]
        for name, history in histories.items():
            passes, values = [record["epoch"] for record in history], [record["value"] for record in history]
            left.plot(passes, values, color=COLOURS[name], label=LABELS[name], lw=1.8)
        left.set_ylabel("accuracy, held-out split")
        left.yaxis.set_major_formatter(PercentFormatter(1.0))
        left.legend(loc="lower right")
        for axes, (name, networks) in zip(others, members.items(), strict=True):
            for history in networks:
                passes, values = [record["epoch"] for record in history], [record["valid_loss"] for record in history]
                axes.plot(passes, values, color=COLOURS[name], lw=1.0, alpha=0.55)
            axes.set_ylabel(f"each {MEMBERS[name]}'s held-out loss, nats")
        for axes in (left, *others):
            axes.set_xlabel("pass over the examples")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid()
        return to_svg(figure)


def draw_timeline(jobs: Sequence[Mapping[str, Any]], colour: str) -> str:
    """When which worker had which job: a row a worker, a bar a job, its number inside."""
    workers = sorted({job["worker"] for job in jobs})
    began = min(job["started"] for job in jobs)
    with rc_context(STYLE):
        figure, axes = make_figure(10.2, 0.34 * len(workers) + 0.8)
        for number, job in enumerate(jobs):
            place, start = workers.index(job["worker"]), job["started"] - began
            axes.barh(
                place, job["seconds"], left=start, height=0.72, color=colour, alpha=0.75, edgecolor="white", lw=0.8
            )
            middle = start + job["seconds"] / 2
            text = number_job(job["job"], number)
            axes.text(middle, place, text, ha="center", va="center", color="white", fontsize=7, clip_on=True)
        axes.set_yticks(range(len(workers)), [f"worker {place}" for place in range(len(workers))])
        axes.set_xlabel("seconds since the first job began")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return to_svg(figure)


def number_job(name: str, place: int) -> str:
    """The number that a job's name ends with, as 'specialist 003' does; else its place. A failed one has no bar."""
    last = name.rpartition(" ")[2]
    return str(int(last)) if last.isdigit() else str(place)


def make_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element; the same figure gives the same text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True, dpi=144)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
