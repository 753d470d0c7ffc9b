"""Networks of transformers, small ones from configurations: answers, options, weights from a folder, whole runs."""

import json

import numpy as np
import pytest
import torch
from builders import quick_config, run_quick

from raydistill.data.arrays import Normalisation
from raydistill.deployment.loading import load_student
from raydistill.errors import ModelError
from raydistill.networks.models import build_model, find_output_layer
from raydistill.storage.files import read_json

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VIT = {**SMALL, "image_size": 8, "patch_size": 4}
BERT = {**SMALL, "vocab_size": 50}
DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
GPT = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 0, "eos_token_id": 1}
IDS = torch.randint(1, 50, (6, 12), generator=torch.Generator().manual_seed(0), dtype=torch.int32)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def build(name, options, shape=(8, 8), dtype=torch.uint8, classes=7, **more):
    model = build_model(
        name,
        options,
        input_shape=shape,
        classes=classes,
        normalisation=Normalisation(100.0, 50.0),
        seed=0,
        dtype=dtype,
        **more,
    )
    return model.eval()


def build_tokens(name, options, length=12):
    return build(name, options, (length,), torch.int32)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (3, 8, 8)])
def test_images_enter_as_the_network_wants_them(shape):
    model, images = build("hf:vit", VIT, shape), torch.randint(0, 256, (4, *shape), dtype=torch.uint8)
    planes = images.reshape(4, 1, 8, 8).repeat(1, 3, 1, 1) if len(shape) == 2 else images
    planes = planes.permute(0, 3, 1, 2) if shape[-1] == 3 else planes
    with torch.no_grad():
        expected = model.network.model(pixel_values=(planes.float() - 100) / 50).logits
        torch.testing.assert_close(model(images), expected)
    assert find_output_layer(model, 7) is model.network.model.classifier


@pytest.mark.parametrize(("name", "options"), [("hf:bert", BERT), ("hf:distilbert", DISTIL), ("hf:gpt2", GPT)])
@torch.no_grad()
def test_padding_changes_nothing(name, options):
    options = {"pad_token_id": 0, **options}
    model, short = build_tokens(name, options), build_tokens(name, options, length=8)
    padded = IDS.clone()
    padded[:, 8:] = 0
    torch.testing.assert_close(model(padded), short(IDS[:, :8]))
    assert not torch.allclose(model(padded), model(IDS))
    assert model(torch.zeros_like(IDS)).isfinite().all()  # nothing but padding
    assert find_output_layer(model, 7) is (
        model.network.model.score if name == "hf:gpt2" else model.network.model.classifier
    )


def test_options_override_the_configuration():
    model = build("hf:vit", {**VIT, "num_channels": 1, "num_hidden_layers": 2})
    config = model.network.model.config
    assert (config.num_channels, config.num_hidden_layers, config.num_labels) == (1, 2, 7)
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    assert build("hf:resnet", resnet, (32, 32))(torch.zeros(2, 32, 32)).shape == (2, 7)
    same, other = build("hf:vit", VIT), build("hf:vit", VIT, input_size=(8, 8))
    assert torch.equal(same.network.model.classifier.weight, other.network.model.classifier.weight)  # seeded


@pytest.mark.parametrize(
    ("name", "options", "shape", "dtype", "told"),
    [
        ("hf:vit", {**VIT, "image_sise": 8}, (8, 8), torch.uint8, "knows no 'image_sise'; did you mean 'image_size'"),
        ("hf:vit", {**SMALL}, (8, 8), torch.uint8, r"fails on an input of shape \(8, 8\).*input_size, such as 224"),
        ("hf:vit", VIT, (8, 8, 4), torch.uint8, "3 channels, and the examples.*have 4"),
        ("hf:vit", {**VIT, "num_labels": 3}, (8, 8), torch.uint8, "'num_labels' is not allowed.*the data say"),
        ("hf:vit", {**VIT, "trust_remote_code": True}, (8, 8), torch.uint8, "code of strangers is not run"),
        ("hf:vit", {**VIT, "pretrained": True}, (8, 8), torch.uint8, "a type and has no pretrained weights"),
        ("hf:whisper", {}, (8, 8), torch.uint8, "no network of type 'whisper' that classifies"),
        ("hf:who/ever", {}, (8, 8), torch.uint8, r"neither a folder \(\./vit\) nor a type.*pretrained: true"),
        ("hf:who/ever", {"pretrained": True}, (8, 8), torch.uint8, "'hf:who/ever' asks for cannot be had"),
        ("hf:bert", BERT, (12,), torch.float32, "needs token ids.*float32"),
        ("hf:bert", {**BERT, "max_position_embeddings": 8}, (12,), torch.int32, "fails on.*max_position_embeddings"),
        ("hf:gpt2", {**GPT, "pad_token_id": None}, (12,), torch.int32, "no padding token.*pad_token_id"),
    ],
)
def test_misfits_are_one_line(name, options, shape, dtype, told):
    with pytest.raises(ModelError, match=rf"generalist\.(model|options): .*{told}") as raised:
        build(name, options, shape, dtype)
    assert "\n" not in str(raised.value)


@pytest.fixture
def folder(tmp_path):
    """A network of 5 classes as save_pretrained leaves it, with its image processor's words."""
    config = transformers.AutoConfig.for_model("vit", num_labels=5, **VIT)
    torch.manual_seed(3)
    network = transformers.AutoModelForImageClassification.from_config(config)
    network.save_pretrained(tmp_path / "vit")
    words = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(words))
    return tmp_path / "vit", network.eval()


@torch.no_grad()
def test_a_folder_gives_its_weights_and_its_normalisation(folder):
    path, network = folder
    model = build(f"hf:{path}", {}, (8, 8, 3), classes=5, normalise="auto")
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    planes = (images.numpy() / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.5, 0.25, 0.2])
    expected = network(pixel_values=torch.from_numpy(planes).float().permute(0, 3, 1, 2)).logits
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
    assert model.note == f"weights of hf:{path}"


def test_a_folder_of_other_classes_keeps_all_but_the_output_layer(folder):
    path, network = folder
    model = build(f"hf:{path}", {}, classes=7)
    assert torch.equal(model.network.model.vit.layernorm.weight, network.vit.layernorm.weight)
    assert "classifier.bias, classifier.weight" in model.note
    fresh = build(f"hf:{path}", {"pretrained": False}, classes=7)
    first = "vit.embeddings.patch_embeddings.projection.weight"
    assert not torch.equal(fresh.network.model.get_parameter(first), network.get_parameter(first))
    with pytest.raises(ModelError, match=r"do not fit its configuration.*first keys that differ: vit"):
        build(f"hf:{path}", {"hidden_size": 32})
    assert build(f"hf:{path}", {}, start=False).note == ""  # to be filled: nothing is read


def test_a_run_whose_generalist_is_a_transformer_with_a_frozen_backbone(tmp_path):
    network = {"model": "hf:vit", "options": VIT, "freeze": ("backbone",), "epochs": 2, "input_size": 8}
    config = quick_config(
        tmp_path / "run",
        generalist=network,
        specialists={"groups": 2, "epochs": 1, "dustbin": "single"},
        search={"trials": 1, "epochs": 1},
        student={"epochs": 1, "model": "mlp", "controls": False},
    )
    run = run_quick(config)
    report = read_json(run.stage_folder("report") / "report.json")
    whole = report["generalist"]["parameters"]
    assert report["ensemble"]["parameters"] == whole + report["ensemble"]["specialists"] * (16 * 10 + 10)
    assert load_student(run.path)(torch.zeros(3, 8, 8, dtype=torch.uint8)).shape == (3, 10)
    sizes = [
        (folder / "weights.safetensors").stat().st_size
        for folder in (run.stage_folder("generalist"), run.specialist_folder(0))
    ]
    assert sizes[1] < sizes[0] / 4


@pytest.fixture
def tokens(tmp_path):
    """Sequences of a class's own tokens, padded with 0."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 600)
    x = labels[:, None] * 5 + generator.integers(1, 8, (600, 10))
    x[np.arange(10) >= generator.integers(4, 11, (600, 1))] = 0
    np.savez(tmp_path / "tokens.npz", x_train=x.astype(np.int16), y_train=labels)
    return f"npz:{tmp_path / 'tokens.npz'}"


def test_a_run_on_token_ids(tokens, tmp_path):
    network = {"model": "hf:bert", "options": {**BERT, "max_position_embeddings": 10}, "epochs": 4}
    changes = {
        "data": tokens,
        "specialists": {"groups": 2, "epochs": 1},
        "search": {"trials": 1, "epochs": 1},
        "student": {"epochs": 4, "controls": False},
    }
    run = run_quick(quick_config(tmp_path / "run", generalist=network, **changes))
    report = read_json(run.stage_folder("report") / "report.json")
    assert report["student"]["test_accuracy"] > 0.5
    too_few = {**network, "options": {**BERT, "vocab_size": 20}}
    with pytest.raises(
        ModelError, match=r"token ids from 0 to 19.*the data have 0 to 22; set options vocab_size to 23"
    ):
        run_quick(quick_config(tmp_path / "other", generalist=too_few, **changes))
