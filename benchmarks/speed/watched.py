"""`raydistill run` with its main thread watched: `python -m benchmarks.speed.watched OUT ARGUMENTS ...`.

Writes to OUT, as JSON, the seconds of each stage by kind: training (a network is trained, here or in a worker),
predicting (networks answer, equation 5 included), and the rest, whose stacks are written beside it as a flame graph.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.speed.sampling import Sampler, Stack, cut_stack, draw_flames

STARTED = time.time()
TRAINING = ("train_model (training)",)
PREDICTING = ("predict_logits (scoring)", "Teachers.answer (teacher)")
OUTSIDE = "outside the stages"

Interval = tuple[float, float]


def read_intervals(run_dir: Path) -> list[Interval]:
    """When jobs and trials ran in workers."""
    files = [run_dir / "timings" / f"{stage}.json" for stage in ("specialists", "seeds", "search", "student")]
    jobs = [job for file in files if file.exists() for job in json.loads(file.read_text())]
    return [(job["started"], job["started"] + job["seconds"]) for job in jobs]


def classify(moment: float, stack: Stack, intervals: list[Interval]) -> str:
    """What a sample is: training, predicting, or rest."""
    if any(name in stack for name in TRAINING) or any(begin <= moment < end for begin, end in intervals):
        return "training"
    return "predicting" if any(name in stack for name in PREDICTING) else "rest"


def sum_up(
    sampler: Sampler, intervals: list[Interval]
) -> tuple[dict[str, dict[str, float]], list[tuple[Stack, float]]]:
    """Seconds by stage and kind, and the stacks of the rest."""
    stages: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(("training", "predicting", "rest"), 0.0))
    rest: list[tuple[Stack, float]] = []
    for moment, seconds, stack in sampler.samples:
        stage = next((name.removeprefix("stage ") for name in stack if name.startswith("stage ")), OUTSIDE)
        kind = classify(moment, stack, intervals)
        stages[stage][kind] += seconds
        if kind == "rest":
            rest.append((cut_stack(stack, "stage "), seconds))
    return dict(stages), rest


def main() -> None:
    """Run, then write."""
    sampler = Sampler()
    out, arguments = Path(sys.argv[1]), sys.argv[2:]
    from raydistill.commands.cli import main as run_cli

    code = run_cli(arguments)
    sampler.stop()
    run_dir = Path(arguments[arguments.index("--run-dir") + 1])
    stages, rest = sum_up(sampler, read_intervals(run_dir))
    out.write_text(json.dumps({"started": STARTED, "ended": time.time(), "stages": stages}))
    out.with_suffix(".svg").write_text(
        draw_flames(rest, "What is neither training nor predicting, seconds of the driver")
    )
    sys.exit(code)


if __name__ == "__main__":
    main()
