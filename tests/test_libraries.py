"""Networks of timm and torchvision: what is refused without them, and real small ones where they can be imported."""

import importlib
import os
import re
import sys
import types

import numpy as np
import pytest
import torch
from builders import quick_config, run_quick

from raydistill.data.arrays import Normalisation
from raydistill.deployment.export import export_student
from raydistill.errors import ModelError
from raydistill.networks.frozen import freeze_parameters
from raydistill.networks.libraries import as_statistics, import_library, split_options, tell_download
from raydistill.networks.models import build_model, find_output_layer, list_output_layers
from raydistill.storage.files import read_json

TINY = {"channels": [4, 4, 8, 8], "stem_width": 4}  # of timm:resnet10t
VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 12, "depth": 2, "num_heads": 2}


def imports(library):
    try:
        importlib.import_module(library)
    except (ImportError, RuntimeError):
        return False
    return True


needs_torchvision = pytest.mark.skipif(not imports("torchvision"), reason="torchvision cannot be imported here")
needs_timm = pytest.mark.skipif(not imports("timm"), reason="timm cannot be imported here")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "huggingface_hub" in sys.modules:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def build(name, options=None, shape=(8, 8), classes=7, **more):
    normalisation = Normalisation(100.0, 50.0)
    model = build_model(
        name,
        options or {},
        input_shape=shape,
        classes=classes,
        normalisation=normalisation,
        seed=0,
        dtype=torch.uint8,
        **more,
    )
    return model.eval()


def test_a_library_that_is_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"generalist\.model: 'timm:resnet10t' needs timm.*raydistill\[timm\]"):
        build("timm:resnet10t")


@pytest.mark.parametrize("raised", [RuntimeError("operator torchvision::nms does not exist"), OSError("no libc10")])
def test_a_library_that_cannot_be_imported_is_told(monkeypatch, raised):
    def fail(name):
        raise raised

    monkeypatch.setattr(importlib, "import_module", fail)
    told = rf"cannot be imported here \({raised}\).*another torch than {re.escape(torch.__version__)}"
    with pytest.raises(ModelError, match=told):
        import_library("torchvision.models", "torchvision:resnet18", "student", "torchvision")


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "weights", "num_classes", "trust_remote_code"])
def test_options_that_are_refused(option):
    with pytest.raises(ModelError, match=f"generalist.options: '{option}' is not allowed with 'timm:x'; "):
        split_options({option: 1}, "timm:x", "generalist")


def test_pretrained_is_taken_out():
    assert split_options({"pretrained": True, "depth": 3}, "timm:x", "generalist") == ({"depth": 3}, True)
    with pytest.raises(ModelError, match="pretrained = 'yes' is not allowed"):
        split_options({"pretrained": "yes"}, "timm:x", "generalist")


def test_downloads_load_no_pickle_and_fail_in_a_line(tmp_path):
    torch.save({"code": types.SimpleNamespace()}, tmp_path / "file")
    with pytest.raises(ModelError, match="'timm:x' asks for cannot be had"), tell_download("timm:x", "generalist"):
        torch.load(tmp_path / "file", weights_only=False)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_statistics_of_other_channels_are_their_means():
    assert as_statistics((0.1, 0.2, 0.6), (1, 2, 3), 3) == ((0.1, 0.2, 0.6), (1.0, 2.0, 3.0))
    mean, std = as_statistics((0.1, 0.2, 0.6), (1, 2, 3), 1)
    assert (mean, std) == (pytest.approx((0.3,)), pytest.approx((2.0,)))
    assert as_statistics(None, (1, 2, 3), 3) is None


@needs_timm
@torch.no_grad()
def test_a_network_of_timm_sees_what_timm_would():
    import timm

    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    model = build("timm:resnet10t", TINY, (32, 32, 3), normalise="model")
    config = timm.data.resolve_model_data_config(model.network)
    planes = (images.numpy() / 255 - np.array(config["mean"])) / np.array(config["std"])
    expected = model.network(torch.from_numpy(planes).float().permute(0, 3, 1, 2))
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
    assert find_output_layer(model, 7) is model.network.fc


@needs_timm
def test_output_layers_are_those_that_timm_names():
    distilled = build("timm:deit_tiny_distilled_patch16_224", VIT)
    assert find_output_layer(distilled, 7) is None
    assert list_output_layers(distilled, 7) == [distilled.network.head, distilled.network.head_dist]
    freeze_parameters(distilled, ("backbone",), 7, "generalist.freeze")
    trained = {name for name, parameter in distilled.named_parameters() if parameter.requires_grad}
    assert trained == {f"network.{head}.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")}


@needs_timm
@pytest.mark.parametrize(
    ("name", "options", "shape", "told"),
    [
        ("timm:resnet10", {}, (8, 8), "no such model; did you mean timm:resnet10t"),
        ("timm:hf-hub:who/ever", {}, (8, 8), "no such model"),
        ("timm:resnet10t", {"banana": 3}, (8, 8), "does not take options.*banana"),
        ("timm:resnet10t", TINY, (8, 8, 4), "takes images of 3 channels.*have 4.*in_chans"),
        ("timm:vit_tiny_patch16_224", {}, (8, 8), r"\(8, 8\): Input height \(8\).*input_size, such as 224"),
        ("timm:resnet10t", {"pretrained": True}, (8, 8), "'timm:resnet10t' asks for cannot be had"),
    ],
)
def test_misfits_of_timm(name, options, shape, told):
    with pytest.raises(ModelError, match=told) as raised:
        build(name, options, shape)
    assert "\n" not in str(raised.value)


@needs_timm
def test_a_run_of_timm_networks_and_its_exports(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    generalist = {"model": "timm:vit_tiny_patch16_224", "options": VIT, "epochs": 1, "freeze": ("blocks.0",)}
    config = quick_config(
        tmp_path / "run",
        generalist=generalist,
        specialists={"groups": 2, "epochs": 1},
        search={"trials": 1, "epochs": 1},
        student={"model": "timm:resnet10t", "options": TINY, "input_size": 16, "epochs": 1, "controls": False},
    )
    run = run_quick(config)
    assert set(read_json(run.stage_folder("report") / "report.json")["models"]) >= {"generalist", "student"}
    for form in ("pt2", "onnx"):
        assert "largest difference" in export_student(run.path, form)


@needs_torchvision
@torch.no_grad()
def test_a_network_of_torchvision():
    model = build("torchvision:resnet18", {"norm_layer": torch.nn.Identity}, (32, 32), normalise="model")
    grey = torch.randint(0, 256, (2, 32, 32), dtype=torch.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    planes = (grey.numpy()[:, None] / 255 - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
    torch.testing.assert_close(model(grey), model.network(torch.from_numpy(planes).float()), atol=1e-4, rtol=1e-3)
    assert find_output_layer(model, 7) is model.network.fc


@needs_torchvision
def test_those_with_side_outputs_answer_with_one_tensor_in_training():
    model = build("torchvision:googlenet", {"init_weights": False}, (32, 32)).train()
    assert model(torch.zeros(2, 32, 32)).shape == (2, 7)


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("torchvision:resnet19", {}, "no such model; did you mean torchvision:resnet1"),
        ("torchvision:fcn_resnet50", {}, "no such model"),  # it would download a backbone
        ("torchvision:alexnet", {}, r"fails on an input of shape \(8, 8\).*input_size, such as 224"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "'weights' is not allowed.*pretrained: true"),
    ],
)
def test_misfits_of_torchvision(name, options, told):
    with pytest.raises(ModelError, match=told):
        build(name, options)
