"""The headline table as text: what `raydistill run` and `raydistill report` print."""

from __future__ import annotations

from typing import Any

from raydistill.errors import RunFolderError
from raydistill.report.shares import AT_PRIOR, name_measure
from raydistill.storage.files import read_json
from raydistill.storage.run_folder import RunFolder

CONTROLS = {
    "labels_only": "labels only",
    "generalist_targets": "generalist's targets",
    "seeds_targets": "seeds' targets",
}


def read_report(run: RunFolder) -> dict[str, Any]:
    """Read report.json. Raises RunFolderError if the run has none yet."""
    try:
        return read_json(run.stage_folder("report") / "report.json")  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise RunFolderError(
            f"run_dir: {run.location!r} has no report yet; raydistill status {run.location} tells how far it is, and"
            " the command that began it goes on"
        ) from None


def list_models(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The rows of the headline table: what each model is, and its figures."""
    student = report["student"]
    rows = [("generalist", report["generalist"])]
    if "ensemble" in report:
        rows.append((f"ensemble: generalist and {count_specialists(report)} specialists", report["ensemble"]))
    if "seeds" in report:
        rows.append((f"ensemble: {report['seeds']['members']} generalists of different seeds", report["seeds"]))
    rows.append((f"student, T = {student['temperature']:.2f}, label weight {student['label_weight']:.2f}", student))
    if "repair" in student:
        before = student["repair"]["unrepaired"]
        rows.append(("the same before its repair", {**before, "parameters": student["parameters"]}))
    if "int8" in report:
        rows.append(("the student in 8-bit integers", report["int8"]))
    return rows + [(f"control: same network, {CONTROLS[name]}", model) for name, model in report["controls"].items()]


def count_specialists(report: dict[str, Any]) -> str:
    """How many there are in the ensemble, '15 of 16' where some failed and are left out."""
    there, skipped = report["ensemble"]["specialists"], len(report.get("skipped", []))
    return f"{there} of {there + skipped}" if skipped else f"{there}"


def list_weighted(report: dict[str, Any], figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of a model's accuracy at the shares wanted, for its column; [] where these are natural."""
    return [(name_measure(report), f"{figures[AT_PRIOR]:.2%}")] if AT_PRIOR in figures else []


def format_table(report: dict[str, Any]) -> str:
    """Accuracy (also at the shares wanted), top-5 accuracy, loss, calibration, size of each model, then the verdict."""
    models = list_models(report)
    width = max(len(name) for name, _ in models)
    with_top5 = report["generalist"]["test_top5"] is not None
    head = f"{'':{width}} {'accuracy':>9}"
    head += "".join(f"{name.split()[0]:>10}" for name, _ in list_weighted(report, report["generalist"]))
    head += f"{'top-5':>9}" if with_top5 else ""
    lines = [f"{head}{'loss, nats':>12}{'calibration':>13}{'parameters':>12}"]
    for name, figures in models:
        line = f"{name:{width}} {figures['test_accuracy']:>9.2%}"
        line += "".join(f"{value:>10}" for _, value in list_weighted(report, figures))
        line += f"{figures['test_top5']:>9.2%}" if with_top5 else ""
        line += f"{figures['test_nll']:>12.4f}{figures['test_calibration_error']:>13.2%}{figures['parameters']:>12,}"
        lines.append(line)
    return "\n".join([*lines, "", *report["verdict"]["sentences"]])
