"""Frozen parameters: which they are, that they and their statistics stay, and that files do not hold them."""

import pytest
import torch
from builders import make_examples, settings
from torch import nn

from raydistill.errors import ModelError
from raydistill.networks.frozen import freeze_parameters, rest_frozen, trained_state
from raydistill.storage.files import read_tensors
from raydistill.training.batches import Batches, shuffle_rows
from raydistill.training.loop import copy_weights, train_model
from raydistill.training.losses import batch_label_loss
from raydistill.training.scoring import score_labels

CPU = torch.device("cpu")


def build(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
    network = nn.Sequential()
    network.add_module("body", body)
    network.add_module("hidden", nn.Linear(16, 12))
    network.add_module("head", nn.Linear(12, 5))
    model = nn.Sequential()
    model.add_module("network", network)
    return model


def frozen_names(*patterns):
    model = build()
    freeze_parameters(model, patterns, 5, "generalist.freeze")
    return {name.removeprefix("network.") for name, tensor in model.named_parameters() if not tensor.requires_grad}


LINEAR, NORM = {"body.0.weight", "body.0.bias"}, {"body.1.weight", "body.1.bias"}
HIDDEN = {"hidden.weight", "hidden.bias"}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), set()),
        (("backbone",), LINEAR | NORM | HIDDEN),
        (("1",), LINEAR),
        (("2",), LINEAR | NORM),
        (("body",), LINEAR | NORM),
        (("body.*",), LINEAR | NORM),
        (("*.bias",), {"body.0.bias", "body.1.bias", "hidden.bias", "head.bias"}),
        (("body.1", "hidden.weight"), NORM | {"hidden.weight"}),
        (("network.hidden",), HIDDEN),
    ],
)
def test_patterns(patterns, expected):
    assert frozen_names(*patterns) == expected


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        (("layer9.*",), r"'layer9\.\*' names no parameter; give backbone.*body\.0\.weight"),
        (("*",), "freezes all parameters"),
        (("9",), "freezes all parameters"),
    ],
)
def test_patterns_that_cannot_be(patterns, told):
    with pytest.raises(ModelError, match=rf"generalist\.freeze: .*{told}"):
        frozen_names(*patterns)


def test_a_backbone_is_known_by_its_output_layer():
    with pytest.raises(ModelError, match="no layer of 99 outputs"):
        freeze_parameters(build(), ("backbone",), 99, "generalist.freeze")


def test_modules_that_are_frozen_rest():
    model = build()
    freeze_parameters(model, ("body",), 5, "generalist.freeze")
    model.train()
    rest_frozen(model)
    network = model.network
    assert not any(module.training for module in network.body.modules())  # its dropout, too
    assert network.hidden.training
    model = build().train()
    rest_frozen(model)
    assert all(module.training for module in model.modules())


def train(model, checkpoint=None, epochs=3, beat=lambda progress: None, patience=9):
    examples = make_examples()
    rows = torch.arange(300)
    batches = Batches(examples, shuffle_rows(rows), 32, 0, 7, CPU)
    validate = score_labels(examples, torch.arange(300, 400))
    return train_model(
        model,
        batches,
        batch_label_loss,
        settings(weight_decay=0.5),
        epochs=epochs,
        validate=validate,
        patience=patience,
        checkpoint=checkpoint,
        beat=beat,
    )


def test_training_leaves_frozen_weights_and_statistics(tmp_path):
    model = build()
    freeze_parameters(model, ("body",), 5, "generalist.freeze")
    before = copy_weights(model)
    progress = train(model, tmp_path / "checkpoint.safetensors")
    changed = {name for name, tensor in copy_weights(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {f"network.{name}" for name in (*HIDDEN, "head.weight", "head.bias")}
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    names = set(read_tensors(tmp_path / "checkpoint.safetensors")[0])
    assert not {name for name in names if "body.0" in name or "body.1.weight" in name}
    assert "model.network.body.1.running_mean" in names
    assert len([name for name in names if name.startswith("optimizer.")]) == 4 * 3  # step and two moments of each


def test_a_training_that_goes_on_ends_as_one_without_a_break(tmp_path):
    class Killed(Exception):
        pass

    def stop(progress):
        if progress["epoch"] == 2:
            raise Killed

    def start():
        model = build()
        freeze_parameters(model, ("backbone",), 5, "generalist.freeze")
        return model

    whole, broken = start(), start()
    train(whole, epochs=4)
    with pytest.raises(Killed):
        train(broken, tmp_path / "checkpoint.safetensors", epochs=4, beat=stop)
    resumed = start()
    train(resumed, tmp_path / "checkpoint.safetensors", epochs=4)
    for name, tensor in copy_weights(whole).items():
        assert torch.equal(tensor, copy_weights(resumed)[name])


def test_what_is_trained_has_buffers_and_no_frozen_parameters():
    model = build()
    assert trained_state(model).keys() == model.state_dict().keys()
    freeze_parameters(model, ("2",), 5, "generalist.freeze")
    assert set(model.state_dict()) - set(trained_state(model)) == {f"network.{name}" for name in LINEAR | NORM}
