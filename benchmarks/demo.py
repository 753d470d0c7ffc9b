"""The demo over several seeds: `python -m benchmarks.demo --seeds 3`.

Runs configs/glyphs.yaml once for each seed (data, splits, weights, batches and search all follow from it), and writes
the test figures of every model by seed, McNemar's p of each seed, and the minutes to benchmarks/results/demo.json;
prints them as a Markdown table with their spread. A finished seed is not run again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.provenance import HERE, describe_machine, make_parser, read_commit, spread
from raydistill.commands.launch import launch
from raydistill.report import read_report
from raydistill.settings.config import build_config
from raydistill.settings.sections import read_config_file
from raydistill.storage.files import write_json

MODELS = {
    "generalist": lambda report: report["generalist"],
    "ensemble": lambda report: report["ensemble"],
    "student": lambda report: report["student"],
    "control: labels only": lambda report: report["controls"]["labels_only"],
    "control: generalist's targets": lambda report: report["controls"]["generalist_targets"],
}
TESTS = ("ensemble_vs_generalist", "student_vs_labels_only", "student_vs_generalist_targets", "student_vs_ensemble")


def run_seed(seed: int, folder: Path) -> dict[str, Any]:
    """One whole run; returns its report."""
    settings = read_config_file(HERE.parent / "configs" / "glyphs.yaml")
    return read_report(launch(build_config({**settings, "seed": seed, "run_dir": folder / f"glyphs-seed-{seed}"})))


def summarise(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of each model by seed, p-values by seed, minutes by seed."""
    names = ("test_accuracy", "test_nll", "test_calibration_error")
    return {
        "command": " ".join(["python -m benchmarks.demo", *sys.argv[1:]]),
        "commit": read_commit(),
        "machine": describe_machine(),
        "seeds": [report["data"]["seed"] for report in reports],
        "minutes": [round(sum(stage["seconds"] for stage in report["stages"]) / 60, 2) for report in reports],
        "models": {
            model: {name: [take(report)[name] for report in reports] for name in names}
            for model, take in MODELS.items()
        },
        "p_values": {test: [report["significance"][test]["p_value"] for report in reports] for test in TESTS},
        "student_kept": [report["verdict"]["student_kept"] for report in reports],
    }


def format_markdown(summary: dict[str, Any]) -> str:
    """Mean and standard deviation over the seeds, as a table, and the tests of each seed below it."""
    lines = ["| | test accuracy | loss, nats | calibration error |", "|---|---|---|---|"]
    for model, figures in summary["models"].items():
        accuracy = spread([100 * value for value in figures["test_accuracy"]], 2)
        loss, error = spread(figures["test_nll"], 4), spread([100 * x for x in figures["test_calibration_error"]], 2)
        lines.append(f"| {model} | {accuracy} % | {loss} | {error} % |")
    lines.append("")
    for test, values in summary["p_values"].items():
        lines.append(f"- {test.replace('_', ' ')}: McNemar p = {', '.join(f'{value:.1g}' for value in values)}")
    minutes = ", ".join(f"{value:.1f}" for value in summary["minutes"])
    made = f"commit {summary['commit']}; {summary['machine']}, shared; {minutes} minutes"
    lines.append(f"- `{summary['command']}`; {made}")
    return "\n".join(lines)


def main() -> None:
    """Run, write and print."""
    parser = make_parser(__doc__)
    options = parser.parse_args()
    summary = summarise([run_seed(seed, options.runs) for seed in range(options.seeds)])
    write_json(HERE / "results" / "demo.json", summary)
    print(format_markdown(summary))


if __name__ == "__main__":
    main()
