"""A generalist that the user hands over: taken as it is, or refused by a line that says why."""

import numpy as np
import pytest
import torch
from builders import quick_config, run_quick, whole_config

from raydistill.commands.launch import format_plan
from raydistill.data.arrays import open_examples, read_split
from raydistill.deployment.loading import load_ensemble
from raydistill.display import Silent
from raydistill.errors import ModelError
from raydistill.stages.given import check_class_order
from raydistill.stages.networks import build_generalist, load_weights
from raydistill.storage.files import read_json, read_tensors
from raydistill.training.scoring import predict_logits

UNITS = {"options": {"hidden": [24]}}


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose generalist others are given."""
    return run_quick(whole_config(tmp_path_factory.mktemp("given") / "run"), until="confusion")


@pytest.fixture
def tensors(trained):
    return read_tensors(trained.stage_folder("generalist") / "weights.safetensors")[0]


def give(path, run_dir, until="generalist", **changes):
    display = Notes()
    generalist = {**UNITS, "checkpoint": str(path), **changes}
    run = run_quick(quick_config(run_dir, generalist=generalist), display=display, until=until)
    return run, display.notes


@pytest.mark.parametrize("prior", ["natural", "equal"])
def test_what_is_assumed_of_its_prior_is_told_first(trained, tmp_path, prior):
    display, path = Notes(), trained.stage_folder("generalist") / "weights.safetensors"
    config = quick_config(tmp_path / "run", generalist={**UNITS, "checkpoint": str(path)}, balance={"prior": prior})
    run_quick(config, display=display, until="data")
    told = [note for note in display.notes if "balance.prior" in note]
    if prior == "natural":
        assert told == []
    else:
        assert told == display.notes[:1]
        assert told[0].startswith("generalist.checkpoint: its probabilities are taken to hold for the shares of")
        assert "balance.prior equal" in told[0]


def network_of(tensors):
    """As somebody's own network would name them."""
    return {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}


def test_a_given_generalist_answers_as_it_did(trained, tensors, tmp_path):
    torch.save({"state_dict": {f"module.{name}": value for name, value in tensors.items()}}, tmp_path / "g.pt")
    run, notes = give(tmp_path / "g.pt", tmp_path / "run", until="groups")
    examples, rows = open_examples(run), read_split(run, "confuse")
    logits = [
        predict_logits(
            load_weights(build_generalist(one, one.read_config(), examples), one.stage_folder("generalist")),
            examples.x,
            rows,
        )
        for one in (trained, run)
    ]
    assert torch.equal(*logits)
    right = float((logits[1].argmax(1) == examples.y[rows]).double().mean())
    assert f"generalist as given, not trained: {right:.1%} right on the confuse split" in notes
    record = read_json(run.stage_folder("generalist") / "training.json")
    assert record["history"][0]["value"] == pytest.approx(right)
    losses = torch.nn.functional.cross_entropy(logits[1], examples.y[rows])
    assert record["history"][0]["valid_loss"] == pytest.approx(float(losses), rel=1e-5)
    assert "for 0 passes" in format_plan(run)


def test_normalisation_is_the_users_where_the_file_has_none(trained, tensors, tmp_path):
    torch.save(network_of(tensors), tmp_path / "g.pt")
    words = read_json(trained.stage_folder("splits") / "normalisation.json")
    given = f"{words['mean'] / 255}/{words['std'] / 255}"
    rights = [
        read_json(
            give(tmp_path / "g.pt", tmp_path / name, normalise=normalise)[0].stage_folder("generalist")
            / "training.json"
        )["history"][0]["value"]
        for name, normalise in (("auto", "auto"), ("given", given), ("none", "none"))
    ]
    assert rights[0] == rights[1] != rights[2]


def test_another_file_redoes_the_stage(tensors, tmp_path):
    path = tmp_path / "g.pt"
    torch.save(tensors, path)
    run = give(path, tmp_path / "run")[0]
    first = run.read_manifest()["stages"]["generalist"]["key"]
    tensors["network.3.bias"] = tensors["network.3.bias"] + 0.01
    torch.save(tensors, path)
    give(path, tmp_path / "run")
    assert run.read_manifest()["stages"]["generalist"]["key"] != first


def test_a_whole_run_with_a_given_generalist(tensors, tmp_path):
    torch.save(tensors, tmp_path / "g.pt")
    settings = {"generalist": {**UNITS, "checkpoint": str(tmp_path / "g.pt"), "freeze": ("backbone",)}}
    settings |= {"specialists": {"epochs": 1, "groups": 2}, "student": {"epochs": 1, "controls": False}}
    run = run_quick(quick_config(tmp_path / "run", search={"trials": 1, "epochs": 1}, **settings))
    report = read_json(run.stage_folder("report") / "report.json")
    assert report["generalist"]["epochs"] == 0
    own = read_tensors(run.specialist_folder(0) / "weights.safetensors")[0]
    assert set(own) == {"normalise.mean", "normalise.inverse_std", "network.3.weight", "network.3.bias"}
    ensemble = load_ensemble(run.path)
    places = [
        [model.network[i].weight.data_ptr() for i in (1, 3)] for model in (ensemble.generalist, *ensemble.specialists)
    ]
    assert len({hidden for hidden, _ in places}) == 1  # all share the backbone's memory
    assert len({head for _, head in places}) == len(places)
    assert torch.equal(ensemble.specialists[0].network[3].bias, own["network.3.bias"])


def rename(tensors):
    return {name.replace("network.3", "network.head"): value for name, value in tensors.items()}


WRONG = {
    "other names": (
        rename,
        r"is not of generalist\.model 'mlp'.*lacks network\.3\.weight, network\.3\.bias; the model"
        r" lacks network\.head\.(weight|bias), network\.head",
    ),
    "other width": (
        lambda tensors: {**tensors, "network.1.weight": torch.zeros(30, 64)},
        r"network\.1\.weight has shape \(30, 64\) in the file and \(24, 64\) in the model",
    ),
    "fewer classes": (
        lambda tensors: {**tensors, "network.3.weight": torch.zeros(9, 24), "network.3.bias": torch.zeros(9)},
        "has 9 classes .* and the data 10",
    ),
    "class names": (
        lambda tensors: {"state_dict": tensors, "classes": list("0132456789")},
        "other classes, or another order: number 2 is '3' in the file and '2' in the data",
    ),
    "number of names": (
        lambda tensors: {"state_dict": tensors, "classes": ["a", "b"]},
        "has 2 classes and the data 10",
    ),
    "not finite": (lambda tensors: {**tensors, "network.3.bias": torch.full((10,), torch.nan)}, "not finite"),
    "another order": (
        lambda tensors: {name: value.roll(1, 0) if ".3." in name else value for name, value in tensors.items()},
        "its classes are in another order than the data's.*'0' as number 1 instead of 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_told_in_a_line(tensors, tmp_path, case):
    change, told = WRONG[case]
    torch.save(change(tensors), tmp_path / "g.pt")
    with pytest.raises(ModelError, match=rf"generalist\.checkpoint: .*{told}") as raised:
        give(tmp_path / "g.pt", tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_a_poor_generalist_is_not_taken_for_another_order():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, 400))
    guesses = torch.from_numpy(np.random.default_rng(1).integers(0, 5, 400))
    check_class_order(guesses, labels, tuple("abcde"))
    check_class_order(labels, labels, tuple("abcde"))
    with pytest.raises(ModelError, match=r"0\.0% are right, and 100\.0% would be"):
        check_class_order((labels + 1) % 5, labels, tuple("abcde"))
