"""What stands in the way of an ingest, in the words of the command that asked for it.

Comes in: a setting of the ingest, and what is wrong with it. Goes out: one line. `raydistill ingest` and
`raydistill run` have the same settings under other names, so each brings its `Words`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raydistill.errors import DataError

Setting = Literal[
    "source", "output", "x_column", "label_column", "splits.column", "splits.keep_apart", "max_corrupt", "size"
]


@dataclass(frozen=True)
class Word:
    """What a command calls a setting. name: as it begins a line. flag: as it ends one, whose remedy is to give it."""

    name: str
    flag: str = ""


Words = Mapping[Setting, Word]


class IngestError(DataError):
    """A setting of an ingest, or what it names, cannot be used.

    setting: which one. problem: its value, what is allowed, the remedy. flag: the setting whose flag ends the remedy.
    """

    def __init__(self, setting: Setting, problem: str, flag: Setting | None = None) -> None:
        super().__init__(setting, problem, flag)  # as they are given: it travels between processes
        self.setting, self.problem, self.flag = setting, problem, flag

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}" + (f" {self.flag}" if self.flag else "")

    def describe(self, words: Words) -> str:
        """The line in a command's words."""
        end = f" {words[self.flag].flag}" if self.flag else ""
        return f"{words[self.setting].name} {self.problem}{end}"
