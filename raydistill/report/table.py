"""The headline table as text: what `raydistill run` and `raydistill report` print."""

from __future__ import annotations

from typing import Any

from raydistill.errors import RunFolderError
from raydistill.files import read_json
from raydistill.run_folder import RunFolder


def read_report(run: RunFolder) -> dict[str, Any]:
    """Read report.json. Raises RunFolderError if the run has none yet."""
    try:
        return read_json(run.stage_folder("report") / "report.json")  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise RunFolderError(f"run_dir: {str(run.path)!r} has no report yet; run raydistill run first") from None


def list_models(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The rows of the headline table: what each model is, and its figures."""
    ensemble, student, controls = report["ensemble"], report["student"], report["controls"]
    chosen = f"T = {student['temperature']:.2f}, label weight {student['label_weight']:.2f}"
    return [
        ("generalist", report["generalist"]),
        (f"ensemble: generalist and {ensemble['specialists']} specialists", ensemble),
        (f"student, {chosen}", student),
        ("control: same network, labels only", controls["labels_only"]),
        ("control: same network, generalist's targets", controls["generalist_targets"]),
    ]


def format_table(report: dict[str, Any]) -> str:
    """Accuracy, top-5 accuracy, loss, calibration and size of each model on the test split, then the verdict."""
    models = list_models(report)
    width = max(len(name) for name, _ in models)
    with_top5 = report["generalist"]["test_top5"] is not None
    head = f"{'':{width}} {'accuracy':>9}{'top-5':>9}" if with_top5 else f"{'':{width}} {'accuracy':>9}"
    lines = [f"{head}{'loss, nats':>12}{'calibration':>13}{'parameters':>12}"]
    for name, figures in models:
        line = f"{name:{width}} {figures['test_accuracy']:>9.2%}"
        line += f"{figures['test_top5']:>9.2%}" if with_top5 else ""
        line += f"{figures['test_nll']:>12.4f}{figures['test_calibration_error']:>13.2%}{figures['parameters']:>12,}"
        lines.append(line)
    return "\n".join([*lines, "", *report["verdict"]["sentences"]])
