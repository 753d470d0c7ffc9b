"""Weights from elsewhere: every form of file gives the same network, and what differs is named."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raydistill.data.arrays import Normalisation
from raydistill.errors import ModelError
from raydistill.networks.models import build_model
from raydistill.networks.weights import compare_weights, fill_network, find_prefix, read_weights
from raydistill.storage.files import write_tensors

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def build(classes=4, hidden=(8,), seed=0):
    return build_model(
        "mlp", {"hidden": hidden}, input_shape=(6,), classes=classes, normalisation=Normalisation(0, 1), seed=seed
    ).eval()


@pytest.fixture
def trained():
    return build(seed=1)


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


FORMS = {
    "safetensors": lambda tensors, path: save_file(tensors, path),
    "plain": torch.save,
    "wrapped": lambda tensors, path: torch.save({"epoch": 3, "state_dict": tensors, "arch": "mlp"}, path),
    "parallel": lambda tensors, path: torch.save({"state_dict": prefixed(tensors, "module.")}, path),
    "compiled": lambda tensors, path: torch.save({"model": prefixed(tensors, "module._orig_mod.")}, path),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("whole", [True, False])
def test_every_form_gives_the_same_network(trained, tmp_path, form, whole):
    FORMS[form]((trained if whole else trained.network).state_dict(), tmp_path / "file")
    tensors, model = read_weights(tmp_path / "file", "student.weights").tensors, build()
    note = fill_network(model, tensors, find_prefix(model, tensors), 4, "file", "student.weights")
    assert note == "weights of file"
    assert torch.equal(model(X), trained(X))


def test_an_output_layer_of_other_classes_is_left_out_and_said(trained, tmp_path):
    torch.save(trained.network.state_dict(), tmp_path / "file")
    model, tensors = build(classes=9), read_weights(tmp_path / "file", "student.weights").tensors
    before = model.network[-1].weight.clone()
    note = fill_network(model, tensors, find_prefix(model, tensors), 9, "file", "student.weights")
    assert "output layer is new (network.3.weight, network.3.bias left out)" in note
    assert torch.equal(model.network[1].weight, trained.network[1].weight)
    assert torch.equal(model.network[-1].weight, before)


def test_a_file_without_output_layer_and_with_other_things(trained):
    tensors = {name: tensor for name, tensor in trained.network.state_dict().items() if not name.startswith("3.")}
    model = build()
    note = fill_network(model, {**tensors, "decoder.weight": X}, "network.", 4, "file", "student.weights")
    assert "output layer is new" in note
    assert "1 tensors that the model has not are left out (network.decoder.weight)" in note
    assert torch.equal(model.network[1].bias, trained.network[1].bias)


def test_the_first_keys_that_differ_are_named(trained):
    tensors = build(hidden=(8, 8)).network.state_dict()
    del tensors["3.weight"]
    with pytest.raises(
        ModelError, match=r"student\.weights: 'file' does not fit the model: it lacks 3\.weight$"
    ) as told:
        fill_network(build(hidden=(8, 8)), tensors, "network.", 4, "file", "student.weights")
    assert "\n" not in str(told.value)
    with pytest.raises(ModelError, match=r"1\.weight has shape \(8, 6\) in the file and \(9, 6\) in the model"):
        fill_network(build(hidden=(9,)), trained.network.state_dict(), "network.", 4, "file", "student.weights")


def test_differences_are_sorted_by_kind(trained):
    difference = compare_weights(build(hidden=(8, 5)), {**trained.network.state_dict(), "new": X}, "network.")
    assert difference.missing == ["network.5.weight", "network.5.bias"]
    assert difference.unexpected == ["network.new"]
    assert difference.misshapen == ["network.3.weight", "network.3.bias"]


def test_counts_of_batches_may_be_missing():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4))
    tensors = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    assert compare_weights(model, tensors, "").missing == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read as weights"),
        (b"PK\x03\x04 not a torch file", "cannot be read as weights"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{broken", "cannot be read as weights"),
    ],
)
def test_files_that_are_none(tmp_path, content, told):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ModelError, match=told) as raised:
        read_weights(tmp_path / "file", "generalist.checkpoint")
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match=r"generalist\.checkpoint: .*none.* cannot be read"):
        read_weights(tmp_path / "none", "generalist.checkpoint")


def test_files_without_a_state_dict(tmp_path):
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "file")
    with pytest.raises(ModelError, match="holds the keys epoch, best and no state dict"):
        read_weights(tmp_path / "file", "generalist.checkpoint")
    torch.save([X], tmp_path / "file")
    with pytest.raises(ModelError, match="no dict"):
        read_weights(tmp_path / "file", "generalist.checkpoint")


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_nothing_is_unpickled(tmp_path, save):
    mark = tmp_path / "mark"
    save({"weight": Bomb(mark)}, tmp_path / "file")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read_weights(tmp_path / "file", "generalist.checkpoint")
    assert not mark.exists()


def test_names_of_classes_are_found(trained, tmp_path):
    tensors = trained.state_dict()
    write_tensors(tmp_path / "ours", tensors, {"classes": ["a", "b"]})
    torch.save({"state_dict": tensors, "class_to_idx": {"b": 1, "a": 0}}, tmp_path / "folders")
    torch.save({"state_dict": tensors, "class_names": ["a", "b"]}, tmp_path / "names")
    torch.save(tensors, tmp_path / "plain")
    found = [read_weights(tmp_path / name, "x").class_names for name in ("ours", "folders", "names", "plain")]
    assert found == [("a", "b")] * 3 + [None]
