"""What growing is worth: a run on all classes that grows from one on most of them, against one from nothing.

    python -m benchmarks.growing --data digits --seeds 3
    python -m benchmarks.growing --data glyphs --seeds 1

Of digits, 8 of the 10 classes come first; of glyphs, 220 of 240 letters, in 16 typefaces and 8 variants each. The test
set is the same for both runs: a file of its own, by a seed. Everything is done in one process, on one thread where
OMP_NUM_THREADS is 1. Times are of the stages, with those of the data left out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.display import Silent
from raydistill.execution.in_process import InProcess
from raydistill.pipeline import run_pipeline
from raydistill.report import read_report
from raydistill.report.side_by_side import compare_many
from raydistill.settings.config import build_config
from raydistill.storage.files import Array
from raydistill.storage.run_folder import RunFolder

TEST = 0.15
LETTERS, FIRST_LETTERS, VARIANTS = 240, 220, 8
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"specialists": {"groups": 3}, "search": {"trials": 4}},
    "glyphs": {"generalist": {"epochs": 20}, "search": {"trials": 4}},
}
MODELS = ("generalist", "ensemble", "student")


def main() -> None:
    """Measure, and print a line for each run and a comparison for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SETTINGS), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--passes", type=float, default=0.5, help="grow.passes")
    given = parser.parse_args()
    x, y, first = load_digits() if given.data == "digits" else draw_letters()
    print(
        f"{'seed':>4}  {'run':8} {'seconds':>8} {'trained':>8} {'kept':>5}" + "".join(f"{name:>12}" for name in MODELS)
    )
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as place:
            measure_seed(Path(place), given.data, x, y, first, seed, given.passes)


def load_digits() -> tuple[Array, Array, int]:
    """Images, labels, and how many classes come first."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return digits.images.astype(np.uint8), digits.target, 8


def draw_letters() -> tuple[Array, Array, int]:
    """The same of glyphs; the classes that come later are spread over all."""
    from raydistill.data import glyphs

    faces = [glyphs.render_face(face, variants=VARIANTS, size=20, seed=0)[:LETTERS] for face in glyphs.FACES]
    order = np.random.default_rng(0).permutation(LETTERS)
    x = np.concatenate([face[order].reshape(-1, *face.shape[2:]) for face in faces])
    return x, np.tile(np.repeat(np.arange(LETTERS), VARIANTS), len(faces)), FIRST_LETTERS


def measure_seed(place: Path, data: str, x: Array, y: Array, first: int, seed: int, passes: float) -> None:
    """One seed: the first classes, then all of them, grown and from nothing."""
    test = np.random.default_rng(seed).random(len(y)) < TEST
    write_data(place / "first.npz", x, y, test, y < first)
    write_data(place / "all.npz", x, y, test, np.ones(len(y), dtype=bool))
    base = {"seed": seed, "cluster": {"backend": "none"}, "grow": {"passes": passes}, **SETTINGS[data]}
    old = run_once(base, place / "first.npz", place / "old")
    fresh = run_once(base, place / "all.npz", place / "fresh")
    grown = run_once({**base, "grow_from": str(old.path)}, place / "all.npz", place / "grown")
    for name, run in (("first", old), ("fresh", fresh), ("grown", grown)):
        print(describe_run(seed, name, run), flush=True)
    for name, model in compare_many([fresh, grown])["pairs"][0]["models"].items():
        print(f"      grown less fresh, {name}: {model['difference']:+.2%} (p = {model['p_value']:.2g})")


def write_data(path: Path, x: Array, y: Array, test: Array, wanted: Array) -> None:
    """Training and test rows of some classes."""
    train, held_out = wanted & ~test, wanted & test
    names = np.array([f"{label:03d}" for label in range(int(y[wanted].max()) + 1)])
    np.savez(path, x_train=x[train], y_train=y[train], x_test=x[held_out], y_test=y[held_out], class_names=names)


def run_once(settings: dict[str, Any], data: Path, folder: Path) -> RunFolder:
    """A whole run in this process."""
    config = build_config({**settings, "data": f"npz:{data}", "run_dir": str(folder)})
    return run_pipeline(config, display=Silent(), start_executor=lambda run: InProcess())


def describe_run(seed: int, name: str, run: RunFolder) -> str:
    """A line: seconds, specialists trained and kept, accuracies."""
    report, stages = read_report(run), run.read_manifest()["stages"]
    seconds = sum(record["seconds"] for stage, record in stages.items() if stage != "data")
    grown, groups = report.get("grown"), len(report["groups"])
    kept = len(grown["kept"]) if grown else 0
    accuracies = "".join(f"{report[model]['test_accuracy']:>12.2%}" for model in MODELS)
    return f"{seed:>4}  {name:8} {seconds:>8.1f} {groups - kept:>8} {kept:>5}{accuracies}"


if __name__ == "__main__":
    main()
