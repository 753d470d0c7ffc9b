"""One table of the paper: `python -m benchmarks.paper TABLE [--data PATH] [--seeds 3]`.

Writes benchmarks/results/TABLE.json and the table's part of benchmarks/RESULTS.md. Runs lie below --runs and resume.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.paper.many import make_ablation, make_folded, make_seeds, make_specialists
from benchmarks.paper.mnist import make_absent, make_mnist, make_regulariser, make_temperature
from benchmarks.paper.results import Result, write_result

TABLES: dict[str, tuple[Callable[..., Result], str | None]] = {
    "mnist": (make_mnist, "MNIST"),
    "temperature": (make_temperature, "MNIST"),
    "absent": (make_absent, "MNIST"),
    "seeds": (make_seeds, None),
    "regulariser": (make_regulariser, "MNIST"),
    "specialists": (make_specialists, "kanji"),
    "folded": (make_folded, "kanji"),
    "ablation": (make_ablation, None),
}


def main() -> None:
    """Run, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--data", type=Path, help=".npz file of MNIST (four tables) or of kanji (two)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the runs")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="runs at once, a core each")
    options = parser.parse_args()
    make, needs = TABLES[options.table]
    if needs and (options.data is None or not options.data.is_file()):
        parser.error(f"--data: {options.data} is not a file; table {options.table!r} needs a .npz file of {needs}")
    folder = options.runs.absolute()
    data = options.data.absolute() if options.data else None
    print(write_result(make(data, folder, list(range(options.seeds)), options.at_once)))


if __name__ == "__main__":
    main()
