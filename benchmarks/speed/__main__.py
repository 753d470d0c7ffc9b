"""What raydistill costs beyond the arithmetic in it: `python -m benchmarks.speed [PART ...]`.

All figures are ratios from one run, whose contenders take turns: median and quartiles over the rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.speed.measure import Line
from benchmarks.speed.solver import measure_solver
from benchmarks.speed.training import measure_distillation, measure_steps

PARTS: dict[str, Callable[[torch.device, int], list[Line]]] = {
    "steps": measure_steps,
    "distillation": measure_distillation,
    "solver": measure_solver,
}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="left out: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for part in options.parts or PARTS:
        for line in PARTS[part](torch.device(options.device), options.rounds):
            print(f"{line.median:8.3g}  ({line.spread()})  {line.target}: {line.name}", flush=True)


if __name__ == "__main__":
    main()
