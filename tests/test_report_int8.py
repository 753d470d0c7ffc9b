"""The student in 8-bit integers in the report: one more model, asked about the test rows as all others are."""

import onnxruntime
import pytest
from builders import quick_config, run_quick

from raydistill.data.arrays import open_examples, read_split
from raydistill.deployment import onnx_file
from raydistill.deployment.export import export_student
from raydistill.errors import ConfigError
from raydistill.report import format_table, read_report
from raydistill.storage.files import read_array


def test_its_cost_on_the_test_rows_is_in_the_report(tmp_path):
    run = run_quick(quick_config(tmp_path / "run", report={"int8": True}))
    report, folder = read_report(run), run.stage_folder("report")
    export_student(run.path, "int8")
    session = onnxruntime.InferenceSession(run.path / "export" / "student.int8.onnx")
    examples, rows = open_examples(run), read_split(run, "test")
    answers = session.run(["logits"], {"x": examples.x[rows].numpy()})[0].argmax(axis=1)
    right = answers == examples.y[rows].numpy()
    int8 = report["int8"]
    assert int8["test_accuracy"] == pytest.approx(float(right.mean()))
    assert int8["file_bytes"] < int8["float32_file_bytes"]
    student = read_array(folder / "predicted.npy")[report["models"].index("student")] == read_array(
        folder / "labels.npy"
    )
    against = int8["against_student"]
    assert against["difference"] == pytest.approx(right.mean() - student.mean())
    assert (against["first_only_right"], against["second_only_right"]) == (
        (right & ~student).sum(),
        (~right & student).sum(),
    )
    told = format_table(report).splitlines()
    assert f"{right.mean():.2%}" in next(line for line in told if line.startswith("the student in 8-bit integers"))
    assert told[-2].startswith(f"In 8-bit integers the student is right in {right.mean():.2%} instead of")
    assert "8-bit integers" in (folder / "report.html").read_text()
    assert "8-bit integers" in (run.path / "export" / "README.md").read_text()


def test_missing_packages_are_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"report.int8: onnx needs onnxruntime; pip install 'raydistill\[onnx\]'"):
        onnx_file.check_onnx("report.int8")
    with pytest.raises(ConfigError, match=r"report\.int8"):
        run_quick(quick_config(tmp_path / "run", report={"int8": True}))
    assert not (tmp_path / "run" / "03_generalist").exists()
