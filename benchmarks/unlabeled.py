"""What unlabeled examples are worth: `python -m benchmarks.unlabeled --data digits --seeds 3`.

A tenth of the training examples keeps its labels (a tenth of each class), the others lose them. The same run twice for
each seed, once without the unlabeled examples and once with them in the transfer set; everything else is the same.
Writes the test figures of every model by seed, and McNemar's p of the two students, to
benchmarks/results/unlabeled_NAME.json, and prints them as a Markdown table. A finished run is not made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import HERE, describe_machine, make_parser, read_commit, spread
from raydistill.commands.launch import launch
from raydistill.data.sources import load_source
from raydistill.data.splits import split_rows
from raydistill.report import read_report
from raydistill.report.compare import compare_runs
from raydistill.settings.config import build_config
from raydistill.storage.files import write_json
from raydistill.storage.run_folder import RunFolder

TEST = 0.2  # share of all examples
LABELLED = 0.1  # of the others
SETTINGS: dict[str, Any] = {
    "teacher": {"kind": "seeds", "seeds": 5},
    "search": {"trials": 4},
    "cluster": {"backend": "none"},
}
FIGURES = ("test_accuracy", "test_nll")
MODELS = {
    "generalist": lambda report: report["generalist"],
    "teacher: 5 generalists": lambda report: report["seeds"],
    "student": lambda report: report["student"],
    "control: labels only": lambda report: report["controls"]["labels_only"],
}


def write_examples(data: str, seed: int, folder: Path) -> dict[str, Path]:
    """The two data files of a seed: the same labelled and test examples, without and with the unlabeled ones."""
    config = build_config({"data": data, "run_dir": folder, "glyphs": {"variants": 8}})
    source = load_source(config, lambda work, items, _: [work(item) for item in items], lambda *_: None)
    shares = {"test": TEST, "labelled": (1 - TEST) * LABELLED}
    rows = split_rows(source.y_train, source.class_names, shares, seed=seed)
    arrays = {"x_test": source.x_train[rows["test"]], "y_test": source.y_train[rows["test"]]}
    arrays |= {"x_train": source.x_train[rows["labelled"]], "y_train": source.y_train[rows["labelled"]]}
    files = {name: folder / f"unlabeled-{data}-{seed}-{name}.npz" for name in ("without", "with")}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(files["without"], class_names=np.array(source.class_names), **arrays)
    np.savez(files["with"], class_names=np.array(source.class_names), x_unlabeled=source.x_train[rows["fit"]], **arrays)
    return files


def run_seed(data: str, seed: int, folder: Path) -> dict[str, RunFolder]:
    """Both runs of a seed."""
    files = write_examples(data, seed, folder)
    runs = {}
    for name, path in files.items():
        where = folder / f"unlabeled-{data}-{seed}-{name}"
        runs[name] = launch(build_config({**SETTINGS, "data": f"npz:{path}", "seed": seed, "run_dir": where}))
    return runs


def summarise(data: str, runs: list[dict[str, RunFolder]]) -> dict[str, Any]:
    """Figures of each model by seed, and p-values by seed."""
    reports = {name: [read_report(pair[name]) for pair in runs] for name in ("without", "with")}
    return {
        "command": f"python -m benchmarks.unlabeled --data {data} --seeds {len(runs)}",
        "commit": read_commit(),
        "machine": describe_machine(),
        "labelled": [report["data"]["examples"] - report["data"]["splits"]["test"] for report in reports["with"]],
        "unlabeled": [report["transfer"]["unlabeled"] for report in reports["with"]],
        "test": [report["data"]["splits"]["test"] for report in reports["with"]],
        "models": {
            name: {
                model: {figure: [take(report)[figure] for report in reports[name]] for figure in FIGURES}
                for model, take in MODELS.items()
            }
            for name in reports
        },
        "p_values": [compare_runs(pair["with"], "student", pair["without"], "student").p_value for pair in runs],
    }


def format_markdown(summary: dict[str, Any]) -> str:
    """Mean and standard deviation over the seeds, as a table."""
    lines = ["| test accuracy; loss, nats | labelled alone | and unlabeled |", "|---|---|---|"]
    for model in MODELS:
        cells = []
        for name in ("without", "with"):
            figures = summary["models"][name][model]
            accuracy = spread([100 * value for value in figures["test_accuracy"]], 2)
            cells.append(f"{accuracy} %; {spread(figures['test_nll'], 3)}")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    values = ", ".join(f"{value:.1g}" for value in summary["p_values"])
    lines += ["", f"- student with unlabeled examples vs without: McNemar p = {values}"]
    sizes = (
        f"{summary['labelled'][0]:,} labelled, {summary['unlabeled'][0]:,} unlabeled, {summary['test'][0]:,} to test"
    )
    lines.append(f"- {sizes}; `{summary['command']}`; commit {summary['commit']}; {summary['machine']}, shared")
    return "\n".join(lines)


def main() -> None:
    """Run, write and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", choices=("digits", "glyphs"), default="digits", help="glyphs: of 8 variants a face")
    options = parser.parse_args()
    summary = summarise(options.data, [run_seed(options.data, seed, options.runs) for seed in range(options.seeds)])
    write_json(HERE / "results" / f"unlabeled_{options.data}.json", summary)
    print(format_markdown(summary))


if __name__ == "__main__":
    main()
