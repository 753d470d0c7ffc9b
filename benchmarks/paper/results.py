"""Results of a table: benchmarks/results/TABLE.json, and its part of benchmarks/RESULTS.md.

Comes in: rows with a value for each seed. Goes out: both files; a part of RESULTS.md lies between its two marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.page import describe_making, replace_part
from benchmarks.provenance import HERE, spread
from raydistill.storage.files import write_json

RESULTS = HERE / "RESULTS.md"
HEAD = """# The paper's tables

Hinton, Vinyals, Dean, [*Distilling the Knowledge in a Neural Network*](https://arxiv.org/abs/1503.02531) (2015),
table by table: the paper's figure, and ours as mean ± standard deviation over the seeds. Every table is made by the
command below it, through the package alone; test examples are read by the report stage only. `benchmarks/results/` has
the figures of each seed.
"""


@dataclass(frozen=True)
class Row:
    """A line of a table. values: one for each seed; unit: 'errors', '%', 'nats', '' ...; paper: its figure as text."""

    name: str
    values: Sequence[float | None]
    unit: str = "%"
    paper: str = ""
    digits: int = 2

    def ours(self) -> str:
        """Mean ± standard deviation, or the value of a single seed."""
        values = [value for value in self.values if value is not None]
        if not values:
            return "–"
        return f"{spread(values, self.digits)} {self.unit}".strip()


@dataclass(frozen=True)
class Result:
    """A whole table. notes: lines below it, such as what was made smaller, p-values, goals missed and why."""

    name: str
    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    seeds: Sequence[int] = (0, 1, 2)
    minutes: float = 0.0
    picture: str | None = None
    details: dict[str, object] = field(default_factory=dict)


def write_result(result: Result) -> str:
    """Write both files; returns the table's text."""
    made = describe_making("benchmarks.paper")
    figures = {**asdict(result), **made, "minutes": round(result.minutes, 1)}
    write_json(HERE / "results" / f"{result.name}.json", figures)
    lines = [f"## {result.title}", "", "| | paper | ours |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.paper or '–'} | {row.ours()} |" for row in result.rows]
    lines += ["", *([f"![{result.title}]({result.picture})", ""] if result.picture else [])]
    lines += [f"- {note}" for note in result.notes]
    seeds = ", ".join(map(str, result.seeds))
    where = f"commit {made['commit']}; {made['machine']}, shared; {result.minutes:.0f} minutes of work on one core"
    lines.append(f"- `{made['command']}`; seeds {seeds}; {where}")
    text = "\n".join(lines)
    replace_part(RESULTS, HEAD, result.name, text)
    return text


def accuracies(reports: Sequence[dict[str, Any]], model: str) -> list[float]:
    """Test accuracy in % of a model, for each report."""
    return [100 * (report.get(model) or report["controls"][model])["test_accuracy"] for report in reports]


def share_kept(single: Sequence[float], teacher: Sequence[float], student: Sequence[float]) -> list[float]:
    """Gain of the student as % of the teacher's, for each seed."""
    return [100 * (s - a) / (t - a) for a, t, s in zip(single, teacher, student, strict=True)]


def join_p(reports: Sequence[dict[str, Any]], comparison: str) -> str:
    """McNemar's p for each seed, with the sign of the difference where it is negative."""
    tests = [report["significance"][comparison] for report in reports]
    return ", ".join(f"{test['p_value']:.1g}{' (worse)' if test['difference'] < 0 else ''}" for test in tests)
