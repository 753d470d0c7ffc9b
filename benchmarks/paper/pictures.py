"""Pictures of the tables, as PNG files in docs/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from raydistill.report.names import LABELS
from raydistill.report.palette import COLOURS
from raydistill.report.svg import FAINT, LINE, STYLE

DOCS = Path(__file__).parent.parent.parent / "docs"
SHADES = ("#b8573c", "#d98c1f", "#0b7a75", "#7a4fbf")


def draw_temperatures(temperatures: Sequence[float], errors: Mapping[int, Sequence[Sequence[float]]]) -> str:
    """Test errors over temperature, a line for each width. errors: by width, for each temperature one for each seed."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 2.6), layout="constrained")
        for axes, shade, (width, values) in zip(figure.subplots(1, len(errors)), SHADES, errors.items(), strict=False):
            mean, low, high = (function(np.array(values), axis=1) for function in (np.mean, np.min, np.max))
            axes.fill_between(temperatures, low, high, color=shade, alpha=0.18, linewidth=0)
            axes.plot(temperatures, mean, marker="o", markersize=3.5, color=shade)
            axes.set_xscale("log")
            axes.set_xticks(temperatures, [f"{value:g}" for value in temperatures])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(axis="y", color=LINE)
            axes.set_title(f"{width} units a layer")
            axes.set_xlabel("temperature")
        figure.axes[0].set_ylabel("test errors of 10,000")
        return _save(figure, "temperature.png")


def draw_coverage(gains: Mapping[str, Mapping[int, Sequence[float]]], paper: Mapping[int, float]) -> str:
    """Relative gain in % over the number of specialists that cover the true class. gains: by data, number, seed."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 2.8), layout="constrained")
        for axes, (name, by_number) in zip(figure.subplots(1, len(gains)), gains.items(), strict=True):
            numbers = sorted(by_number)
            for seed in zip(*(by_number[number] for number in numbers), strict=True):
                axes.plot(numbers, seed, "o-", markersize=3.5, color=COLOURS["ensemble"], alpha=0.6, linewidth=1)
            axes.plot(list(paper), list(paper.values()), "s--", markersize=3, color=FAINT, linewidth=1)
            axes.axhline(0, color=LINE, zorder=0)
            axes.grid(axis="y", color=LINE)
            axes.set_title(name)
            axes.set_xlabel("specialists that cover the class (10: or more)")
        figure.axes[0].set_ylabel("relative gain, %")
        figure.axes[0].plot([], [], "o-", markersize=3.5, color=COLOURS["ensemble"], label="ours, each seed")
        figure.axes[0].plot([], [], "s--", markersize=3, color=FAINT, label="paper (JFT)")
        figure.axes[0].legend()
        return _save(figure, "coverage.png")


def draw_folded(accuracies: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Test accuracy in % of every model. accuracies: by data, model, seed."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 2.6), layout="constrained")
        for axes, (name, models) in zip(
            figure.subplots(1, len(accuracies), sharey=True), accuracies.items(), strict=True
        ):
            for line, (model, values) in enumerate(models.items()):
                colour = COLOURS.get(model, COLOURS["student"])
                axes.plot(values, [line] * len(values), "o", markersize=5, color=colour, alpha=0.7, markeredgewidth=0)
            axes.axvline(np.mean(models["ensemble"]), color=COLOURS["ensemble"], linewidth=0.8, linestyle=":")
            axes.set_yticks(range(len(models)), [LABELS.get(model, model) for model in models])
            axes.invert_yaxis()
            axes.grid(axis="x", color=LINE)
            axes.set_title(name)
            axes.set_xlabel("test accuracy, %")
        figure.axes[0].set_ylim(len(next(iter(accuracies.values()))) - 0.5, -0.5)
        return _save(figure, "folded.png")


def _save(figure: Figure, name: str) -> str:
    """Write it to docs/; returns its path as RESULTS.md names it."""
    figure.savefig(DOCS / name, dpi=160)
    return f"../docs/{name}"
