"""Exports: each is loaded by a runtime of its own, in batches of any size, and says what the student says."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from builders import quick_config, run_quick

from raydistill.commands.cli import main
from raydistill.data.arrays import open_examples, read_split
from raydistill.deployment import export as module
from raydistill.deployment.export import choose_inputs, compare, export_student, write_checked
from raydistill.deployment.exported import load_exported
from raydistill.deployment.loading import load_student
from raydistill.errors import ConfigError, DataError, ModelError, RaydistillError
from raydistill.storage.files import read_json

CNN = {"epochs": 2, "model": "cnn", "options": {"channels": [4, 8], "hidden": 16}}
SIZES = (1, 2, 7, 1000)
WITHOUT_RAY = """
import sys, torch, raydistill
student = raydistill.load_exported(sys.argv[1])
logits = student(torch.load(sys.argv[2], weights_only=True))
torch.save(logits.detach(), sys.argv[3])
print([name for name in ("ray", "pyarrow") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("export") / "run"))


@pytest.fixture(scope="module")
def of_cnn(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("export") / "cnn", generalist=CNN, student={"epochs": 2}))


def inputs(run):
    return choose_inputs(run, open_examples(run))


def ask(path, batch):
    """The logits of a file, by nothing of raydistill's."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(batch).detach().numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": batch.numpy()})[0]


@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.parametrize("name", ["finished", "of_cnn"])
def test_files_answer_batches_of_any_size_as_the_student_does(request, capfd, tmp_path, form, name):
    run = request.getfixturevalue(name)
    path = tmp_path / f"student.{form}"
    assert main(["export", str(run.path), "--format", form, "--output", str(path)]) == 0
    told = capfd.readouterr()
    assert "on 1,000 inputs" in told.out
    assert told.err == ""
    batch, student = inputs(run), load_student(run.path)
    for size in SIZES:
        with torch.inference_mode():
            expected = student(batch[:size]).numpy()
        np.testing.assert_allclose(ask(path, batch[:size].clone()), expected, atol=1e-4)
    assert read_json(tmp_path / "config.json")["classes"] == [str(index) for index in range(10)]


@pytest.mark.parametrize("form", ["pt2", "onnx", "int8"])
def test_no_path_of_this_machine_is_shipped(finished, tmp_path, form):
    path = tmp_path / f"student.{form.replace('int8', 'onnx')}"
    export_student(finished.path, form, path)
    held = path.read_bytes()
    if form == "pt2":
        with zipfile.ZipFile(path) as archive:
            held = b"".join(archive.read(name) for name in archive.namelist())
    for package in (torch, module):
        assert str(Path(package.__file__).parent).encode() not in held


def test_a_folder_answers_without_the_run_and_without_ray(of_cnn, tmp_path):
    export_student(of_cnn.path, "safetensors")
    folder = (of_cnn.path / "export").rename(tmp_path / "elsewhere")
    assert {path.name for path in folder.iterdir()} == {"student.safetensors", "config.json", "README.md"}
    batch = inputs(of_cnn)
    torch.save(batch, tmp_path / "batch.pt")
    arguments = [str(path) for path in (folder, tmp_path / "batch.pt", tmp_path / "logits.pt")]
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "[]")
    with torch.inference_mode():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), load_student(of_cnn.path)(batch))
    student = load_exported(folder)
    assert (student.class_names[3], student.input_shape, student.dtype) == ("3", (8, 8), "uint8")


def test_a_thousand_inputs_are_compared_and_none_is_a_test_row(finished):
    examples = open_examples(finished)
    batch = inputs(finished)
    assert len(batch) == 1000
    tune = read_split(finished, "tune")
    assert torch.equal(batch[: len(tune)], examples.x[tune])
    rows = torch.cat([tune, read_split(finished, "fit")])[:1000]
    assert torch.equal(batch, examples.x[rows])
    assert not set(rows.tolist()) & set(read_split(finished, "test").tolist())


def test_noise_within_the_data_s_range_makes_up_a_thousand(finished, monkeypatch):
    few = {"tune": torch.arange(4), "fit": torch.arange(4, 10)}
    monkeypatch.setattr(module, "read_split", lambda run, name: few[name])
    examples = open_examples(finished)
    batch = choose_inputs(finished, examples)
    assert batch.shape == (1000, 8, 8)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[:10], examples.x[:10])
    assert int(batch[10:].max()) == int(examples.x[:10].max()) == 16
    assert torch.equal(choose_inputs(finished, examples), batch)


def test_a_file_that_is_wrong_for_one_size_of_batch_is_not_left(finished, tmp_path):
    student, examples = load_student(finished.path), open_examples(finished)

    def wrong_for(size):
        return lambda batch: student(batch) + (2e-4 if len(batch) == size else 0.0)

    for size in SIZES:
        with pytest.raises(RaydistillError, match=f"differ by 2.0e-04 for a batch of {size}, allowed is 1e-04"):
            compare(student, wrong_for(size), inputs(finished))
    with pytest.raises(RaydistillError, match="nothing written"):
        write_checked(finished, examples, student, tmp_path / "s.pt2", lambda path, batch: path.touch() or wrong_for(7))
    assert list(tmp_path.iterdir()) == []


class Branches(torch.nn.Module):
    def forward(self, batch):
        return batch.float() if batch.float().mean() > 3 else -batch.float()


def test_a_model_that_has_no_such_form_is_told_in_a_line(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_student", lambda run_dir: Branches())
    for form in ("pt2", "onnx", "int8"):
        with pytest.raises(ModelError, match=r"this model cannot be .*safetensors") as raised:
            export_student(finished.path, form, tmp_path)
        assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "README.md"])
def test_files_of_somebody_else_are_not_overwritten(finished, tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match=name):
        export_student(finished.path, "safetensors", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_a_later_export_of_another_kind_keeps_the_folder_whole(finished, tmp_path):
    export_student(finished.path, "safetensors", tmp_path)
    export_student(finished.path, "pt2", tmp_path, card=tmp_path / "card.md")
    export_student(finished.path, "safetensors", tmp_path)
    assert torch.equal(load_exported(tmp_path)(inputs(finished)), load_student(finished.path)(inputs(finished)))
    assert "student.pt2" in (tmp_path / "card.md").read_text()


def spoil(folder, **changes):
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"weights": "../student.safetensors"}, DataError, "holds no exported student"),
        ({"weights": "/etc/passwd"}, DataError, "holds no exported student"),
        ({"raydistill_student": 2}, DataError, "holds no exported student"),
        ({"sha256": "0"}, DataError, "has changed since it was written"),
        ({"model": "os:system"}, ModelError, "Python's own modules"),
        ({"classes": ["a", "b"]}, DataError, "cannot be read"),
        ({"input_shape": "x"}, DataError, "cannot be read"),
        ({"normalisation": {}}, DataError, "cannot be read"),
        ({"images": {"form": 3}}, DataError, "cannot be read"),
    ],
)
def test_a_spoilt_folder_is_told_in_a_line(finished, tmp_path, changes, error, told):
    export_student(finished.path, "safetensors", tmp_path)
    spoil(tmp_path, **changes)
    with pytest.raises(error, match=told) as raised:
        load_exported(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_without_an_export_is_told(tmp_path):
    with pytest.raises(DataError, match="holds no exported student"):
        load_exported(tmp_path)
