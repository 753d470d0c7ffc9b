"""Settings of networks: what may be said, how a student follows its generalist, and what enters a stage's key."""

from pathlib import Path

import pytest
from builders import quick_config
from pydantic import ValidationError

from raydistill.commands.cli import read_settings
from raydistill.errors import ConfigError, ModelError
from raydistill.networks.architecture import (
    find_folder,
    generalist_architecture,
    identify_architecture,
    student_architecture,
)
from raydistill.settings.networks import ArchitectureConfig, read_statistics


@pytest.mark.parametrize(
    ("given", "expected"),
    [(32, (32, 32)), ("32", (32, 32)), ((24, 32), (24, 32)), ("24,32", (24, 32)), ([16], (16, 16)), (None, None)],
)
def test_sizes(given, expected):
    assert ArchitectureConfig(input_size=given).input_size == expected


@pytest.mark.parametrize("given", [0, (1, 2, 3), "wide", (8, -1)])
def test_sizes_that_are_none(given):
    with pytest.raises(ValidationError):
        ArchitectureConfig(input_size=given)


def test_statistics():
    assert read_statistics("0.5/0.25") == ((0.5,), (0.25,))
    assert read_statistics("0.4, 0.5, -1e-3/1,2,3") == ((0.4, 0.5, -0.001), (1.0, 2.0, 3.0))


@pytest.mark.parametrize("given", ["imagenet", "0.5", "0.5/0", "0.5/1,2", "0.5/-1", "e/e"])
def test_normalisations_that_are_none(given):
    with pytest.raises(ValidationError, match="auto, data, model, unit, none, or MEAN/STD"):
        ArchitectureConfig(normalise=given)


def test_from_the_command_line():
    flags = ["--data", "digits", "--run-dir", "x", "--generalist.input-size", "32", "--student.input_size", "16,24"]
    flags += ["--generalist.freeze", "backbone", "--student.normalise", "0.5/0.25"]
    config = read_settings("run", flags)[0]
    assert (config.generalist.input_size, config.student.input_size) == ((32, 32), (16, 24))
    assert config.generalist.freeze == ("backbone",)
    assert config.student.normalise == "0.5/0.25"


def test_a_checkpoint_is_no_start(tmp_path):
    for other in ({"weights": "w.pt"}, {"options": {"pretrained": True}}):
        with pytest.raises(ConfigError, match="checkpoint is a whole generalist"):
            quick_config(tmp_path, generalist={"checkpoint": "g.pt", **other})


def test_a_student_without_a_model_follows_the_generalist(tmp_path):
    own = {"model": "cnn", "options": {"hidden": 9}, "input_size": 16, "normalise": "unit", "weights": "w.pt"}
    student = student_architecture(quick_config(tmp_path, generalist=own))
    assert vars(student) == {**vars(generalist_architecture(quick_config(tmp_path, generalist=own))), "role": "student"}
    changed = student_architecture(
        quick_config(tmp_path, generalist=own, student={"options": {"hidden": 3}, "input_size": 12})
    )
    assert (changed.options, changed.input_size, changed.weights) == ({"hidden": 3}, (12, 12), None)
    other = student_architecture(quick_config(tmp_path, generalist=own, student={"model": "mlp"}))
    assert (other.options, other.input_size, other.normalise, other.weights) == ({}, None, "auto", None)


def test_a_folder_has_a_slash(tmp_path, monkeypatch):
    (tmp_path / "vit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_folder("./vit") == Path("vit")
    assert find_folder(str(tmp_path / "vit")) == tmp_path / "vit"
    assert find_folder("vit") is None  # the type
    assert find_folder("./none") is None


def test_files_enter_the_key(tmp_path):
    weights, folder = tmp_path / "w.pt", tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights.write_bytes(b"1")
    architecture = generalist_architecture(
        quick_config(tmp_path, generalist={"model": f"hf:{folder}", "weights": str(weights)})
    )
    keys = [identify_architecture(architecture)]
    weights.write_bytes(b"2")
    keys.append(identify_architecture(architecture))
    (folder / "config.json").write_text('{"a": 1}')
    keys.append(identify_architecture(architecture))
    assert [key[0] for key in keys] == [keys[0][0]] * 3
    assert len({str(key[1]) for key in keys}) == 3
    weights.unlink()
    with pytest.raises(ModelError, match=r"generalist\.weights: .*cannot be read"):
        identify_architecture(architecture)
