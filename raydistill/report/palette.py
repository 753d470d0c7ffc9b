"""The colours of the report in both themes, by name; its style sheet makes each a CSS variable.

Text has a contrast of at least 4.5 against every ground it stands on, marks in pictures at least 3 (a test computes
both from the page).
"""

from __future__ import annotations

LIGHT = {
    "ground": "#fcfcfa",
    "panel": "#f3f4f1",
    "ink": "#1d242c",
    "faint": "#59636e",
    "line": "#dcdfdd",
    "accent": "#0b6e69",
    "good": "#0f6b45",
    "bad": "#a63f22",
    "heat": "#3b1d78",
    "generalist": "#5d6b79",
    "ensemble": "#6c3fb4",
    "seeds": "#2b61a8",
    "student": "#0b706b",
    "labels-only": "#9a5f07",
    "generalist-targets": "#ab4326",
    "seeds-targets": "#9b3784",
}
DARK = {
    "ground": "#13171b",
    "panel": "#1c2227",
    "ink": "#e4e8ea",
    "faint": "#a1acb5",
    "line": "#333b42",
    "accent": "#52c4bb",
    "good": "#62c796",
    "bad": "#f0977c",
    "heat": "#d5c3ff",
    "generalist": "#a3b2c0",
    "ensemble": "#b99df0",
    "seeds": "#82b1ef",
    "student": "#4fc2b9",
    "labels-only": "#e0aa55",
    "generalist-targets": "#ee9a80",
    "seeds-targets": "#e291d1",
}
MODELS = ("generalist", "ensemble", "seeds", "student", "labels_only", "generalist_targets", "seeds_targets")
COLOURS = {name: LIGHT[name.replace("_", "-")] for name in MODELS}
"""Colour of each model, as pictures are drawn; the page puts the theme's in its place."""


def name_colours(svg: str) -> str:
    """A picture with CSS variables for its colours, so that it follows the page's theme."""
    for name, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
