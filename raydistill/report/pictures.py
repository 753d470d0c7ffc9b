"""The charts of the report, by Matplotlib, as SVG text that a page can hold.

Comes in: figures as they stand in report.json. Goes out: SVG, a panel at most as wide as a phone, but for the timeline.
Names of classes stay out of the charts: the page shows them as text, in whatever script they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from raydistill.display import format_seconds
from raydistill.report.names import LABELS
from raydistill.report.palette import COLOURS
from raydistill.report.svg import FAINT, GROUND, INK, LINE, STYLE, make_figure, to_svg
from raydistill.report.timeline import DRIVER, Timeline
from raydistill.report.trials import measure_gaps

WIDTH = 4.3  # inches of a panel: 413 pixels
KINDS = {**COLOURS, "search": COLOURS["labels_only"], "stage": FAINT}
"""Colours of the timeline's bars."""
MEMBERS = {"ensemble": "specialist", "seeds": "other generalist"}
MOST_LANES = 64
History = Sequence[Mapping[str, float]]
"""What training.json holds of each pass."""


def draw_accuracies(models: Mapping[str, float], examples: int, alt: str) -> str:
    """Test accuracy of each model, with its 95 % interval (normal approximation)."""
    with rc_context(STYLE):
        figure, axes = make_figure(4.9, 0.4 * len(models) + 0.6, fitted=True)
        bottom_up = list(reversed(list(models.items())))
        for place, (name, accuracy) in enumerate(bottom_up):
            half = 1.96 * (accuracy * (1 - accuracy) / examples) ** 0.5
            axes.plot([accuracy - half, accuracy + half], [place, place], color=COLOURS[name], lw=2.4, alpha=0.45)
            axes.plot(accuracy, place, "o", color=COLOURS[name], ms=6.5)
            axes.annotate(f"{accuracy:.2%}", (accuracy, place), (0, 6), textcoords="offset points", ha="center")
        axes.set_yticks(range(len(models)), [LABELS[name] for name, _ in bottom_up])
        axes.set_ylim(-0.5, len(models) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.margins(x=0.12)
        axes.grid(axis="x")
        axes.set_xlabel("test accuracy, with its 95 % interval")
        return to_svg(figure, "accuracies", alt)


def draw_reliability(models: Mapping[str, Mapping[str, Any]], alt: str) -> str:
    """Accuracy by confidence of each model: the diagonal is what confidence should mean; areas say the examples."""
    with rc_context(STYLE):
        figure, axes = make_figure(WIDTH, 3.9)
        axes.plot([0, 1], [0, 1], color=FAINT, lw=0.9, ls=(0, (4, 3)), label="as confident as right")
        for name, reliability in models.items():
            bins = reliability["bins"]
            confidence, accuracy, counts = (
                np.array([row[what] for row in bins]) for what in ("confidence", "accuracy", "examples")
            )
            axes.plot(confidence, accuracy, color=COLOURS[name], lw=1.4, label=LABELS[name])
            axes.scatter(confidence, accuracy, 6 + 90 * counts / counts.sum(), color=COLOURS[name], alpha=0.75, lw=0)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence: probability of the answer")
        axes.set_ylabel("accuracy of such answers")
        _percent(axes, both=True)
        axes.legend(loc="upper left")
        return to_svg(figure, "reliability", alt)


def draw_selective(models: Mapping[str, Mapping[str, Any]], alt: str) -> str:
    """Accuracy of each model if it answers only the examples of which it is surest, by the share that it answers."""
    with rc_context(STYLE):
        figure, axes = make_figure(WIDTH, 3.9)
        for name, reliability in models.items():
            shares, accuracies = zip(*reliability["surest"], strict=True)
            axes.plot(shares, accuracies, color=COLOURS[name], lw=1.6, label=LABELS[name])
        axes.set_xlabel("share of the examples that is answered, the surest first")
        axes.set_ylabel("accuracy of these answers")
        _percent(axes, both=True)
        axes.legend(loc="lower left")
        return to_svg(figure, "selective", alt)


def draw_costs(groups: Sequence[Mapping[str, Any]], alt: str) -> str:
    """Each specialist by its seconds of training and the test examples that the ensemble mends less those it breaks."""
    with rc_context(STYLE):
        figure, axes = make_figure(WIDTH, 3.4)
        axes.axhline(0, color=FAINT, lw=0.9)
        seconds = [group["seconds"] for group in groups]
        net = [group["fixed"] - group["broken"] for group in groups]
        colours = [COLOURS["student"] if value > 0 else COLOURS["generalist_targets"] for value in net]
        axes.scatter(seconds, net, 30, c=colours, lw=0)
        for index in choose_labelled(seconds, net):
            axes.annotate(
                str(groups[index]["index"]),
                (seconds[index], net[index]),
                (5, 2),
                textcoords="offset points",
                fontsize=8,
            )
        axes.set_xlim(0, 1.12 * max(seconds) or 1.0)
        axes.margins(y=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("test examples mended less broken")
        axes.grid()
        return to_svg(figure, "costs", alt)


def choose_labelled(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Points whose labels have room, those farthest from y = 0 first."""
    wide, high = max(x, default=0) or 1, (max(y, default=0) - min(y, default=0)) or 1
    chosen: list[int] = []
    for index in sorted(range(len(x)), key=lambda index: -abs(y[index])):
        near = (abs(x[index] - x[other]) < 0.07 * wide and abs(y[index] - y[other]) < 0.05 * high for other in chosen)
        if not any(near):
            chosen.append(index)
    return chosen


def draw_search(search: Mapping[str, Any], alt: str) -> str:
    """Each trial at its temperature and label weight; colour: how far it was behind the best at its last pass."""
    trials, best = search["trials"], search["best"]
    places = np.array([[trial["temperature"], trial["label_weight"]] for trial in trials])
    values = -100 * np.array(measure_gaps(trials))
    stopped = np.array([trial["stopped_early"] for trial in trials])
    with rc_context(STYLE):
        figure, axes = make_figure(WIDTH, 3.4, fitted=True)
        for early, marker, label in ((True, "v", "stopped early"), (False, "o", "full length")):
            temperatures, label_weights = places[stopped == early].T
            axes.scatter(
                temperatures,
                label_weights,
                s=62,
                c=values[stopped == early],
                marker=marker,
                label=label if (stopped == early).any() else None,
                lw=0.7,
                ec=INK,
                vmin=min(values.min(), -0.01),
                vmax=0,
                cmap="viridis",
            )
        axes.plot(best["temperature"], best["label_weight"], "o", ms=14, mfc="none", mec=INK, mew=1.2, label="chosen")
        _temperature_axis(axes, search)
        axes.set_ylabel("label weight")
        axes.margins(0.08)
        axes.grid()
        bar = figure.colorbar(axes.collections[-1], label="points against the best of its last pass")
        bar.outline.set_visible(False)
        figure.legend(loc="outside upper left", ncols=3, markerscale=0.7, handletextpad=0.2, columnspacing=1.0)
        return to_svg(figure, "search", alt)


def draw_curves(histories: Mapping[str, History], alt: str) -> str:
    """Held-out accuracy of generalist, student and controls by pass."""
    with rc_context(STYLE):
        figure, axes = make_figure(WIDTH, 3.4)
        for name, history in histories.items():
            passes, values = [record["epoch"] for record in history], [record["value"] for record in history]
            axes.plot(passes, values, color=COLOURS[name], label=LABELS[name], lw=1.6)
        axes.set_ylabel("accuracy, held-out split")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="lower right")
        _pass_axis(axes)
        return to_svg(figure, "curves", alt)


def draw_members(name: str, networks: Sequence[History], alt: str) -> str:
    """Held-out loss by pass of each specialist (name: ensemble) or each generalist of another seed (name: seeds)."""
    with rc_context(STYLE):
        figure, axes = make_figure(WIDTH, 3.4)
        for history in networks:
            passes, values = [record["epoch"] for record in history], [record["valid_loss"] for record in history]
            axes.plot(passes, values, color=COLOURS[name], lw=1.0, alpha=0.55)
        axes.set_ylabel(f"each {MEMBERS[name]}'s held-out loss, nats")
        _pass_axis(axes)
        return to_svg(figure, f"members-{name}", alt)


def draw_timeline(timeline: Timeline, alt: str) -> str:
    """What ran where and when: a row a slot, a bar a stage or a job, the number of a job inside where there is room."""
    lanes = timeline.lanes[:MOST_LANES]
    with rc_context(STYLE):
        figure, axes = make_figure(8.8, 0.27 * len(lanes) + 0.62, fitted=True)
        for bar in timeline.bars:
            if bar.lane not in lanes:
                continue
            place = lanes.index(bar.lane)
            axes.barh(place, bar.seconds, left=bar.start, height=0.74, color=KINDS[bar.kind], edgecolor=GROUND, lw=0.5)
            text = bar.name if bar.lane == DRIVER else number_job(bar.name)
            if text and bar.seconds > timeline.span * 0.0085 * (len(text) + 0.6):
                axes.text(
                    bar.start + bar.seconds / 2,
                    place,
                    text,
                    ha="center",
                    va="center_baseline",
                    color=GROUND,
                    fontsize=8,
                )
        for pause in timeline.pauses:
            axes.axvspan(pause.start, pause.start + pause.shown, color=LINE, lw=0)
        axes.set_yticks(range(len(lanes)), lanes)
        axes.set_ylim(len(lanes) - 0.4, -0.6)
        axes.set_xlim(0, timeline.span * 1.005)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: format_seconds(seconds).removesuffix(" 0 s")))
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 3, 6, 10]))
        axes.grid(axis="x")
        return to_svg(figure, "timeline", alt)


def number_job(name: str) -> str:
    """The number that a job's name ends with, as 'specialist 003' does; else the name."""
    last = name.rpartition(" ")[2]
    return str(int(last)) if last.isdigit() else name.replace("_", " ")


def _percent(axes: Axes, *, both: bool = False) -> None:
    for axis in (axes.xaxis, axes.yaxis) if both else (axes.yaxis,):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.grid()


def _pass_axis(axes: Axes) -> None:
    axes.set_xlabel("pass over the examples")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()


def _temperature_axis(axes: Axes, search: Mapping[str, Any]) -> None:
    low, high = search["space"]["temperature"]
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50) if low * 0.99 <= tick <= high * 1.01]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("temperature")
