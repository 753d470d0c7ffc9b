"""Matplotlib's figures as SVG that a page can hold: small, in the page's font and colours, described in words.

Comes in: figures that are drawn in the light theme's colours. Goes out: an <svg> element. No window, no global state.
"""

from __future__ import annotations

import io
import re
from typing import Any

from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raydistill.report.palette import LIGHT, name_colours

INK, FAINT, LINE, GROUND = LIGHT["ink"], LIGHT["faint"], LIGHT["line"], LIGHT["ground"]
STYLE: Any = {  # of rc_context, whose keys are literals
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.labelsize": 8.5,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "raydistill",
}


MARGINS = (0.62, 0.08, 0.48, 0.1)  # inches left, right, below and above of a chart with two labels


def make_figure(width: float, height: float, *, fitted: bool = False) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; inches, of 96 pixels on the page.

    fitted: margins are made to fit what stands in them, for names of unknown length; it doubles the time of drawing.
    """
    if fitted:
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()
    left, right, below, above = MARGINS
    figure = Figure(figsize=(width, height))
    box = (left / width, below / height, (width - left - right) / width, (height - below - above) / height)
    return figure, figure.add_axes(box)


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an <svg> element; the same figure gives the same text. name: prefix of its ids; alt: in words."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    for clutter in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"font-family: [^;\"]*;?\s*",
        r'(?<=<g) id="[^"]*"',
    ):
        svg = re.sub(clutter, "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)
    width, height = figure.get_size_inches()
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
        f' aria-label="{escape(alt)}" viewBox="0 0 {72 * width:g} {72 * height:g}" style="width: {96 * width:.0f}px">'
    )
    return name_colours(re.sub(r"^.*?<svg[^>]*>", lambda _: head, svg, flags=re.DOTALL))
