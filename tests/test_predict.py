"""Predictions of whole inputs, by student, teacher and exported folder, in memory that does not grow."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from builders import quick_config, run_quick
from PIL import Image
from sklearn.datasets import load_digits

from raydistill.commands.cli import main
from raydistill.deployment.export import export_student
from raydistill.deployment.loading import load_student, load_teacher
from raydistill.deployment.predict import predict
from raydistill.errors import ConfigError
from raydistill.storage.files import write_mapped

X = load_digits().images.astype(np.uint8)
MEMORY = """
import sys
from pathlib import Path
from raydistill.deployment.predict import predict
predict(sys.argv[1], [sys.argv[2]], Path(sys.argv[3]))
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("predict") / "run"))


def write_images(folder, count=12):
    """Digits whose white is 255, as PNG."""
    folder.mkdir()
    for index in range(count):
        pixels = (X[index].astype(np.float64) * 255 / 16).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")


def test_images_are_answered_as_the_arrays_they_show_and_corrupt_ones_told(capsys, finished, tmp_path):
    write_images(tmp_path / "images")
    (tmp_path / "images" / "03.png").write_bytes(b"no image")
    output = tmp_path / "out.parquet"
    arguments = ["predict", str(finished.path), str(tmp_path / "images"), "--top", "3", "--output", str(output)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "11 predictions of the student" in printed
    assert "skipped, with the reason in the column 'problem': 1" in printed
    assert "03.png: cannot identify image file" in printed
    assert "with values from 0 to 16" in printed
    rows = pq.read_table(output).to_pylist()
    with torch.inference_mode():
        expected = load_student(finished.path)(torch.from_numpy(X[:12])).softmax(dim=1)
    for index, row in enumerate(rows):
        assert row["file"].endswith(f"{index:02d}.png")
        if index == 3:
            assert row["class"] is None
            assert row["problem"] == "cannot identify image file"
            continue
        best = expected[index].topk(3)
        assert [row["class"], row["class_2"], row["class_3"]] == [str(place) for place in best.indices.tolist()]
        assert row["probability_3"] == pytest.approx(float(best.values[2]), rel=1e-4)
        assert row["problem"] is None


@pytest.mark.parametrize("model", ["teacher", "ensemble"])
def test_the_teacher_answers_as_load_teacher(finished, tmp_path, model):
    np.save(tmp_path / "x.npy", X[:40])
    predict(finished.path, [str(tmp_path / "x.npy")], tmp_path / "o.npz", model=model)
    with np.load(tmp_path / "o.npz") as out:
        expected = load_teacher(finished.path)(torch.from_numpy(X[:40])).exp()
        np.testing.assert_allclose(out["probability"], expected, atol=1e-6)


def test_an_exported_folder_answers_as_the_run(finished, tmp_path):
    write_images(tmp_path / "images", 5)
    export_student(finished.path, "safetensors", tmp_path / "student")
    for name, location in (("a", finished.path), ("b", tmp_path / "student")):
        predict(location, [str(tmp_path / "images")], tmp_path / f"{name}.csv")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    with pytest.raises(ConfigError, match="'teacher' is not in an exported folder"):
        predict(tmp_path / "student", [str(tmp_path / "images")], tmp_path / "c.csv", model="teacher")


def test_memory_does_not_grow_with_the_input(finished, tmp_path):
    """An array of 96 MB, of which no more than a few blocks are in memory at once."""
    peaks = {}
    for name, rows in (("small", 100), ("large", 187_500)):
        with write_mapped(tmp_path / f"{name}.npy", (rows, 8, 8), np.float64) as x:
            x[:] = 3
        arguments = [str(finished.path), str(tmp_path / f"{name}.npy"), str(tmp_path / f"{name}.parquet")]
        done = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=True)
        peaks[name] = int(done.stdout.split()[-1]) / 1024
    assert pq.read_metadata(tmp_path / "large.parquet").num_rows == 187_500
    assert peaks["large"] - peaks["small"] < 40  # MB


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"output": None}, "output: missing; give --output"),
        ({"top": 11}, "top: 11 is not allowed; give 1 to 10"),
        ({"top": 0}, "top: 0 is not allowed"),
        ({"model": "generalist"}, "model: 'generalist' is not allowed; give one of student"),
    ],
)
def test_settings_that_cannot_be_are_told(finished, tmp_path, options, told):
    np.save(tmp_path / "x.npy", X[:4])
    given = {"output": tmp_path / "o.csv", **options}
    with pytest.raises(ConfigError, match=told):
        predict(finished.path, [str(tmp_path / "x.npy")], given.pop("output"), **given)
