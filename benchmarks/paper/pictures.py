"""Pictures of the tables, as PNG files in docs/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from raydistill.report.pictures import GRID, STYLE

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
            axes.grid(axis="y", color=GRID)
            axes.set_title(f"{width} units a layer")
            axes.set_xlabel("temperature")
        figure.axes[0].set_ylabel("test errors of 10,000")
        path = DOCS / "temperature.png"
        figure.savefig(path, dpi=160)
    return f"../docs/{path.name}"
