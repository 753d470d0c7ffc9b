"""What the `balance` section does for rare classes: `python -m benchmarks.imbalance --seeds 3`.

Digits, of which the classes 5 to 9 keep a fifteenth of their training examples (about 9 of 140); the test examples are
all kept, so that accuracy and balanced accuracy nearly agree there. The same run with several settings for each seed.
Writes the test figures to benchmarks/results/imbalance.json, and prints them as a Markdown table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.provenance import HERE, describe_machine, make_parser, read_commit, spread
from raydistill.commands.launch import launch
from raydistill.data.splits import split_rows
from raydistill.report import read_report
from raydistill.settings.config import build_config
from raydistill.storage.files import write_json

KEPT = 15  # one of so many examples of a rare class
SETTINGS: dict[str, Any] = {"search": {"trials": 2}, "specialists": {"groups": 4}, "cluster": {"backend": "none"}}
BALANCES: dict[str, dict[str, str]] = {
    "natural": {},
    "sampling equal": {"sampling": "equal"},
    "prior sqrt": {"prior": "sqrt"},
    "prior equal": {"prior": "equal"},
    "prior equal, sampling sqrt": {"prior": "equal", "sampling": "sqrt"},
    "prior and sampling equal": {"prior": "equal", "sampling": "equal"},
}
MODELS = ("generalist", "ensemble", "student")


def write_examples(seed: int, folder: Path) -> Path:
    """Digits with five rare classes in the training part."""
    digits = load_digits()
    x, y, names = digits.images.astype(np.uint8), digits.target, [str(name) for name in range(10)]
    rows = split_rows(y, names, {"test": 0.2}, seed=seed)
    few = [row for name in range(5, 10) for row in rows["fit"][y[rows["fit"]] == name][::KEPT]]
    train = np.concatenate([rows["fit"][y[rows["fit"]] < 5], few])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"imbalance-{seed}.npz"
    np.savez(path, x_train=x[train], y_train=y[train], x_test=x[rows["test"]], y_test=y[rows["test"]])
    return path


def run_seed(seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Reports of a seed, by setting."""
    data, reports = write_examples(seed, folder), {}
    for name, balance in BALANCES.items():
        where = folder / f"imbalance-{seed}-{name.replace(' ', '-').replace(',', '')}"
        given = {**SETTINGS, "data": f"npz:{data}", "seed": seed, "run_dir": where, "balance": balance}
        reports[name] = read_report(launch(build_config(given)))
    return reports


def format_markdown(summary: dict[str, Any]) -> str:
    """Balanced accuracy of every model and setting, mean and standard deviation over the seeds."""
    lines = [f"| balanced accuracy | {' | '.join(MODELS)} |", "|---" * (len(MODELS) + 1) + "|"]
    for name, models in summary["balanced_accuracy"].items():
        cells = [f"{spread([100 * value for value in models[model]], 2)} %" for model in MODELS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"\n- `{summary['command']}`; commit {summary['commit']}; {summary['machine']}, shared")
    return "\n".join(lines)


def main() -> None:
    """Run, write and print."""
    parser = make_parser(__doc__)
    options = parser.parse_args()
    reports = [run_seed(seed, options.runs) for seed in range(options.seeds)]
    summary = {
        "command": f"python -m benchmarks.imbalance --seeds {options.seeds}",
        "commit": read_commit(),
        "machine": describe_machine(),
        "balanced_accuracy": {
            name: {model: [report[name][model]["balanced_accuracy"] for report in reports] for model in MODELS}
            for name in BALANCES
        },
    }
    write_json(HERE / "results" / "imbalance.json", summary)
    print(format_markdown(summary))


if __name__ == "__main__":
    main()
