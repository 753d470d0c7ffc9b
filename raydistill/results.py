"""What a run shows of itself: its plan and its report, as text on a terminal and as tables in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raydistill.storage.run_folder import RunFolder

SHOWN_GROUPS = 40


class Plan:
    """The groups of confused classes, and what specialists for them could gain at most.

    groups: for each, its classes' `name`, `members` (class numbers), `classes`, `examples_an_epoch`, `natural_share`
    and `fixable`, the share of all examples that it could mend. accuracy: the generalist's on the confuse split;
    fixable: what perfect specialists would add to it; mass_covered: share of the confusion within groups.
    """

    def __init__(self, run: RunFolder) -> None:
        from raydistill.commands.launch import format_plan
        from raydistill.stages.groups import describe_plan

        found = describe_plan(run)
        self.groups: list[dict[str, Any]] = found["groups"]
        self.accuracy, self.fixable = float(found["accuracy"]), float(found["fixable"])
        self.mass_covered = float(found["mass_covered"])
        self._text = format_plan(run)

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        rows = (
            (str(index), group["name"], group["classes"], f"{group['examples_an_epoch']:,}", f"{group['fixable']:.2%}")
            for index, group in enumerate(self.groups[:SHOWN_GROUPS])
        )
        table = to_table(("group", "names", "classes", "examples a pass", "gain at most"), rows)
        words = [line for line in self._text.split("\n\n")[-1].splitlines() if line]
        return table + "".join(f"<div>{html.escape(line)}</div>" for line in words)


class Report(Mapping[str, Any]):
    """The figures of report.json, as a mapping. page: report.html; table: the headline table as text."""

    def __init__(self, run: RunFolder) -> None:
        """Raises RunFolderError if the run has none yet."""
        from raydistill.report import read_report

        self.figures: dict[str, Any] = read_report(run)
        self.page: Path = run.stage_folder("report") / "report.html"

    @property
    def table(self) -> str:
        """What `raydistill report` prints."""
        from raydistill.report import format_table

        return format_table(self.figures)

    @property
    def verdict(self) -> list[str]:
        """The report in plain words."""
        return list(self.figures["verdict"]["sentences"])

    def __getitem__(self, name: str) -> Any:
        return self.figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.figures)

    def __len__(self) -> int:
        return len(self.figures)

    def __repr__(self) -> str:
        return f"{self.table}\n\npage: {self.page}"

    def _repr_html_(self) -> str:
        from raydistill.report.table import list_models, list_weighted

        rows = (
            (
                name,
                f"{model['test_accuracy']:.2%}",
                *(value for _, value in list_weighted(self.figures, model)),
                f"{model['test_nll']:.4f}",
                f"{model['test_calibration_error']:.2%}",
                f"{model['parameters']:,}",
            )
            for name, model in list_models(self.figures)
        )
        weighted = (name for name, _ in list_weighted(self.figures, self.figures["generalist"]))
        table = to_table(
            ("on the test split", "accuracy", *weighted, "loss, nats", "calibration error", "parameters"), rows
        )
        words = "".join(f"<div>{html.escape(sentence)}</div>" for sentence in self.verdict)
        return f"{table}{words}<div>Page: <code>{html.escape(str(self.page))}</code></div>"


def to_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; columns but names are aligned to the right."""

    def cells(tag: str, values: Sequence[Any]) -> str:
        aligned = ("left" if name in ("names", head[0]) else "right" for name in head)
        return "".join(
            f'<{tag} style="text-align:{side}">{html.escape(str(value))}</{tag}>'
            for side, value in zip(aligned, values, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"
