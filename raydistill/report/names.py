"""What models are called in charts, tables and sentences, and their figures by name.

Comes in: names of models as report.json has them. Goes out: words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydistill.report.table import CONTROLS

LABELS = {
    "generalist": "generalist",
    "ensemble": "ensemble",
    "seeds": "ensemble of seeds",
    "student": "student",
    **{name: f"control: {text}" for name, text in CONTROLS.items()},
}
NAMES = {
    "generalist": "the generalist",
    "ensemble": "the ensemble",
    "seeds": "the ensemble of seeds",
    "student": "the student",
    **{name: f"the control on {'' if name == 'labels_only' else 'the '}{text}" for name, text in CONTROLS.items()},
}
Numbers = Mapping[str, Any]
"""What report.json holds."""


def figures_of(numbers: Numbers, name: str) -> Mapping[str, Any]:
    """The figures of a model."""
    return numbers[name] if name in numbers else numbers["controls"][name]  # type: ignore[no-any-return]


def begin_sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[0].upper() + text[1:]
