"""Predictions for images or arrays of any number, by the student or its teacher, into a table.

Comes in: a run or an exported folder, and inputs (records.py). Goes out: a file (tables.py), and what to tell the user.
Memory does not grow with the number of records.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from raydistill.data.new_images import NewImages
from raydistill.deployment.answerer import Answerer, open_answerer
from raydistill.deployment.records import Block, Records, open_records
from raydistill.deployment.tables import check_output, open_table, rank_classes
from raydistill.display import Display, Silent
from raydistill.errors import ConfigError

SHOWN = 5


def predict_file(run_dir: Path | str, source: Path, output: Path | None = None, model: str = "student") -> str:
    """Write class numbers, class names and probabilities for the examples of a file; returns what to tell the user.

    The output, if left out, is a .npz file beside it. Raises DataError for a bad input.
    """
    return predict(run_dir, [str(source)], output, model=model)


def predict(
    location: Path | str,
    inputs: Sequence[str],
    output: Path | None = None,
    *,
    model: str = "student",
    top: int = 1,
    x_column: str | None = None,
    display: Display | None = None,
) -> str:
    """Write a table of predictions for all that the inputs stand for; returns what to tell the user.

    Records that cannot be used are in the table, with the reason. Raises ConfigError for output and top, DataError for
    inputs that are no images or arrays of this model.
    """
    target = output or _choose_output(inputs)
    check_output(target)
    answerer = open_answerer(location, model)
    if not 1 <= top <= len(answerer.class_names):
        raise ConfigError(f"top: {top} is not allowed; give 1 to {len(answerer.class_names)}, the number of classes")
    records = open_records(inputs, answerer, x_column)
    tally = Tally(answerer, display or Silent(), records)
    with open_table(target, answerer.class_names, top, records.total, records.of_images) as write:
        for block in records.read():
            log_probs = answerer.answer(block.x)
            write(block, log_probs)
            tally.add(block, log_probs)
    return tally.describe(target)


def _choose_output(inputs: Sequence[str]) -> Path:
    if len(inputs) == 1 and inputs[0].endswith(".npz"):
        return Path(inputs[0]).expanduser().with_suffix(".predicted.npz")
    raise ConfigError("output: missing; give --output with a file that ends in .parquet, .csv or .npz")


class Tally:
    """What was predicted so far, for the user."""

    def __init__(self, answerer: Answerer, display: Display, records: Records) -> None:
        self._answerer, self._display, self._records = answerer, display, records
        self._shown: list[str] = []
        self._problems: list[str] = []
        self._done = self._skipped = 0
        self._began = time.monotonic()
        display.begin_stage("predict", 1, 1)

    def add(self, block: Block, log_probs: object) -> None:
        """Take in a block that is written."""
        for place in range(len(block.files)):
            if len(self._shown) == SHOWN:
                break
            if place not in block.problems:
                self._show(block, place, log_probs)
        for place in sorted(block.problems)[: SHOWN - len(self._problems)]:
            self._problems.append(f"  {self._name(block, place)}: {block.problems[place]}")
        self._skipped += len(block.problems)
        self._done += len(block.files)
        text = f"{self._done:,} of {self._records.total:,} records, {self._skipped:,} skipped"
        self._display.update(self._done / self._records.total, text)

    def _show(self, block: Block, place: int, log_probs: object) -> None:
        order, probability = rank_classes(log_probs[place : place + 1], 1)  # type: ignore[index]
        name = self._answerer.class_names[order[0, 0]]
        self._shown.append(f"  {self._name(block, place)}: {name} ({probability[0, 0]:.1%})")

    @staticmethod
    def _name(block: Block, place: int) -> str:
        return block.files[place] if block.rows is None else str(block.rows[place])

    def describe(self, target: Path) -> str:
        """Lines for the user. Raises nothing."""
        self._display.end_stage(time.monotonic() - self._began, skipped=False)
        lines = [f"{self._done - self._skipped:,} predictions of the {self._answerer.model} in {target}", *self._shown]
        if self._records.of_images and isinstance(self._answerer.images, NewImages) and self._answerer.images.note:
            lines.append(f"note: {self._answerer.images.note}")
        if self._skipped:
            lines.append(f"skipped, with the reason in the column 'problem': {self._skipped:,}")
            lines += self._problems
        return "\n".join(lines)
