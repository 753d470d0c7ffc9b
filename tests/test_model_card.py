"""The model card: read by the Hub's own library, with the report's numbers, and nothing invented."""

import numpy as np
import pytest
from builders import quick_config, run_quick
from huggingface_hub import ModelCard

from raydistill.commands.cli import main
from raydistill.deployment.export import export_student
from raydistill.deployment.model_card import is_card, name_source
from raydistill.report.table import read_report
from raydistill.storage.files import read_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("card") / "run"))


def test_the_hub_reads_it_with_the_report_s_figures(finished, tmp_path):
    arguments = ["export", str(finished.path), "--output", str(tmp_path), "--licence", "apache-2.0"]
    assert main(arguments) == 0
    card, report = ModelCard.load(tmp_path / "README.md"), read_report(finished)
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "raydistill"
    assert card.data.pipeline_tag == "image-classification"
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    student = report["student"]
    assert figures["accuracy"] == student["test_accuracy"]
    assert figures["nll"] == student["test_nll"]
    for model in (report["generalist"], report["ensemble"], student, *report["controls"].values()):
        assert f"| {model['test_accuracy']:.2%} |" in card.text
    for group in report["groups"]:
        assert group["name"] in card.text
    best = read_json(finished.stage_folder("search") / "search.json")["best"]
    assert f"temperature {best['temperature']:.4g}, label weight {best['label_weight']:.4g}" in card.text


def test_no_licence_is_invented_and_the_card_goes_where_it_is_wanted(finished, tmp_path):
    told = export_student(finished.path, "safetensors", tmp_path / "a", card=tmp_path / "CARD.md")
    assert "no licence: --licence" in told
    card = ModelCard.load(tmp_path / "CARD.md")
    assert card.data.license is None
    assert "None was stated" in card.text
    assert is_card(tmp_path / "CARD.md")
    assert not (tmp_path / "a" / "README.md").exists()


def test_a_run_without_a_report_says_so(tmp_path):
    run = run_quick(quick_config(tmp_path / "run"), until="student")
    export_student(run.path, "safetensors", tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None
    assert "Not measured: the run has no report yet." in card.text


def test_names_from_elsewhere_are_neither_markup_nor_paths(tmp_path):
    names = ["<script>alert(1)</script>", "a | b", "```\n# Title"]
    x = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    labels = np.arange(600) % 3
    x[:, :3] += 3 * np.eye(3, dtype=np.float32)[labels]
    data = tmp_path / "of whom" / "data.npz"
    data.parent.mkdir()
    np.savez(data, x_train=x, y_train=labels, class_names=np.array(names))
    run = run_quick(quick_config(tmp_path / "run", data=f"npz:{data}", specialists={"groups": 2}))
    export_student(run.path, "safetensors", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "tabular-classification"
    assert "<script>" not in card.text
    assert "\n# Title" not in card.text
    assert "of whom" not in card.content
    assert name_source("openml:a/b") == "openml:a/b"
    assert name_source("digits") == "digits"
