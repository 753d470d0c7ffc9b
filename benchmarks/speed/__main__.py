"""What raydistill costs beyond the arithmetic in it: `python -m benchmarks.speed [PART ...]`.

Ratios from one run, whose contenders take turns: median and quartiles over the rounds. --write puts a part into
benchmarks/SPEED.md. --quick measures less and fails where a line is below its floor (floors.json, which --record
writes): `make bench-quick`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.page import describe_making, replace_part
from benchmarks.provenance import HERE
from benchmarks.speed.cache import measure_cache
from benchmarks.speed.grouping import measure_grouping
from benchmarks.speed.measure import Line, Part, Setup
from benchmarks.speed.pool import measure_pool
from benchmarks.speed.run import measure_run
from benchmarks.speed.search import measure_search
from benchmarks.speed.solver import measure_solver
from benchmarks.speed.stacked import measure_stacked
from benchmarks.speed.training import measure_distillation, measure_steps
from raydistill.storage.files import read_json, write_json

SPEED = HERE / "SPEED.md"
FLOORS = Path(__file__).with_name("floors.json")
SLACK = 0.75  # a floor is the recorded figure, less what shared machines add from day to day
HEAD = """# Speed

What raydistill costs beyond the arithmetic in it. Every figure is the median over rounds in which the contenders took
turns in one run, with its quartiles; a part is made by the command below it. `make bench-quick` measures less of the
same and fails below the recorded floors (`benchmarks/speed/floors.json`).

On a GPU: `python -m benchmarks.speed steps distillation solver --device cuda` is ready and has not been run, because
none was at hand. Losses and equation 5 take PyTorch's operations there.
"""


@dataclass(frozen=True)
class Chapter:
    """A part of the page. quick: measured by `make bench-quick`, too."""

    title: str
    measure: Callable[[Setup], Part]
    quick: bool = True


CHAPTERS: dict[str, Chapter] = {
    "steps": Chapter("1. The training step", measure_steps),
    "distillation": Chapter("2. Distillation against the usual loop", measure_distillation),
    "solver": Chapter("3. Equation 5", measure_solver),
    "pool": Chapter("4. The pool", measure_pool, quick=False),
    "stacked": Chapter("4b. Several specialists at once in one worker", measure_stacked, quick=False),
    "search": Chapter("5. The search", measure_search, quick=False),
    "cache": Chapter("6. The cache of soft targets", measure_cache),
    "grouping": Chapter("7. Grouping at scale", measure_grouping),
    "run": Chapter("8. The whole run", measure_run),
}


def format_part(name: str, part: Part) -> str:
    """The part's text on the page."""
    made = describe_making("benchmarks.speed")
    lines = [f"## {CHAPTERS[name].title}", "", "| | target | median | quartiles | met |", "|---|---|---|---|---|"]
    for line in part.lines:
        met = "" if line.target is None else "yes" if line.target.holds(line.median) else "**no**"
        lines.append(f"| {line.name} | {line.target or '–'} | {line.figure()} | {line.spread()} | {met} |")
    lines += ["", *part.table, *([""] if part.table else []), *(f"- {note}" for note in part.notes)]
    return "\n".join([*lines, f"- `{made['command']}`; commit {made['commit']}; {made['machine']}, shared"])


def write_part(name: str, part: Part) -> None:
    """Write benchmarks/results/speed_NAME.json and the part of SPEED.md."""
    figures = [{**vars(line), "target": line.target and str(line.target), "median": line.median} for line in part.lines]
    made = describe_making("benchmarks.speed")
    write_json(HERE / "results" / f"speed_{name}.json", {**made, "lines": figures, "notes": part.notes})
    replace_part(SPEED, HEAD, name, format_part(name, part))


def record_floors(name: str, lines: list[Line]) -> None:
    """Take what was measured, less SLACK, as the floors (or ceilings) of the part's lines that have a target."""
    floors = read_json(FLOORS) if FLOORS.exists() else {}
    floors[name] = {line.name: find_floor(line) for line in lines if line.target is not None}
    write_json(FLOORS, floors)


def find_floor(line: Line) -> float:
    """The worst figure that is let pass later: some slack from what was measured, never stricter than the target."""
    assert line.target is not None
    slack = 0.99 if line.exact else SLACK
    lower = line.target.bound == "at least"
    floor = min(line.median * slack, line.target.value) if lower else max(line.median / slack, line.target.value)
    return float(f"{floor:.3g}")


def check_floors(name: str, lines: list[Line]) -> list[str]:
    """What is worse than its floor, a sentence each."""
    floors = read_json(FLOORS).get(name, {})
    worse = []
    for line in lines:
        if line.target is not None and line.name in floors:
            floor = type(line.target)(line.target.bound, floors[line.name])
            if not floor.holds(line.median):
                worse.append(f"{name}: {line.name}: {line.figure()}, the floor is {floor}")
    missing = sorted(set(floors) - {line.name for line in lines})
    return worse + [f"{name}: {line}: not measured any more; record the floors again" for line in missing]


def main() -> None:
    """Measure, print; write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", choices=[*CHAPTERS, []], help="left out: all, with --quick the quick ones")
    parser.add_argument("--rounds", type=int, help="left out: 9, with --quick 3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="write SPEED.md")
    parser.add_argument("--quick", action="store_true", help="measure less, and fail below the floors")
    parser.add_argument("--record", action="store_true", help="with --quick: record the floors instead")
    options = parser.parse_args()
    setup = Setup(torch.device(options.device), options.rounds or (3 if options.quick else 9), options.quick)
    worse: list[str] = []
    for name in options.parts or [name for name, chapter in CHAPTERS.items() if chapter.quick or not options.quick]:
        part = CHAPTERS[name].measure(setup)
        for line in part.lines:
            print(f"{line.figure():>12}  ({line.spread()})  {line.target or 'shown'}: {line.name}", flush=True)
        for note in (*part.table, *part.notes):
            print(f"  {note}", flush=True)
        if options.write:
            write_part(name, part)
        if options.record:
            record_floors(name, list(part.lines))
        elif options.quick:
            worse += check_floors(name, list(part.lines))
    if worse:
        sys.exit("\n".join(worse))


if __name__ == "__main__":
    main()
