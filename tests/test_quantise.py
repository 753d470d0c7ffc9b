"""The student in 8-bit integers: near to the student, the same alone and in a batch, and its cost as measured."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from builders import quick_config, run_quick
from torch import nn

from raydistill.data.arrays import Normalisation, open_examples, read_split
from raydistill.deployment.export import export_student
from raydistill.deployment.loading import load_student
from raydistill.deployment.quantise import choose_calibration, describe_cost, quantise
from raydistill.networks.models import build_model

MODELS = {
    "mlp": ("mlp", {"hidden": [64, 64]}, (8, 8)),
    "cnn": ("cnn", {"channels": [8, 16], "hidden": 32}, (12, 12, 3)),
}


@pytest.fixture(scope="module", params=MODELS)
def both(request):
    name, options, shape = MODELS[request.param]
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, *shape), dtype=np.uint8))
    student = build_model(
        name, options, input_shape=shape, classes=5, normalisation=Normalisation(127.5, 74.0), seed=0
    ).eval()
    return student, quantise(student, x[:200]), x


def test_logits_are_near_and_the_file_is_small(both):
    student, small, x = both
    with torch.inference_mode():
        expected = student(x)
    error = (small.answer(x) - expected).square().mean().sqrt()
    assert error < 0.05 * expected.std()  # 8 bits: a step is a 255th of the range
    torch.testing.assert_close(small.full_answer(x), expected, atol=1e-4, rtol=1e-4)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    assert len(small.data) - small.full_bytes < -2 * parameters  # 3 of 4 bytes, and 2 to 6 kB of nodes more


def test_an_answer_does_not_depend_on_the_others_in_its_batch(both):
    _, small, x = both
    together = small.answer(torch.cat([x[:20], torch.full_like(x[:20], 255)]))[:20]
    alone = torch.cat([small.answer(x[row : row + 1]) for row in range(20)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_weights_are_in_8_bits(both):
    kinds = [
        onnx.TensorProto.DataType.Name(tensor.data_type)
        for tensor in onnx.load_from_string(both[1].data).graph.initializer
    ]
    assert kinds.count("INT8") >= 3


def test_the_written_cost_is_that_of_the_tune_split(tmp_path):
    run = run_quick(quick_config(tmp_path / "run", generalist={"epochs": 4, "options": {"hidden": [96]}}))
    told = export_student(run.path, "int8")
    folder = run.path / "export"
    cost = json.loads((folder / "int8.json").read_text())
    examples, rows = open_examples(run), read_split(run, "tune")
    x, y = examples.x[rows], examples.y[rows]
    session = onnxruntime.InferenceSession(folder / "student.int8.onnx", providers=["CPUExecutionProvider"])
    answers = torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0]).argmax(dim=1)
    with torch.inference_mode():
        full = load_student(run.path)(x).argmax(dim=1)
    assert cost["accuracy"]["int8"] == pytest.approx(float((answers == y).double().mean()))
    assert cost["accuracy"]["float32"] == pytest.approx(float((full == y).double().mean()))
    assert cost["agreement"] == pytest.approx(float((answers == full).double().mean()))
    assert cost["agreement"] > 0.95
    assert cost["examples"] == len(rows)
    assert cost["split"] == "tune"
    assert cost["bytes"]["int8"] == (folder / "student.int8.onnx").stat().st_size < cost["bytes"]["float32"]
    assert describe_cost(cost) in told
    assert describe_cost(cost) in (folder / "README.md").read_text()


def test_calibration_rows_are_of_the_fit_split(tmp_path):
    run = run_quick(quick_config(tmp_path / "run"), until="splits")
    examples = open_examples(run)
    fit = {examples.x[row].numpy().tobytes() for row in read_split(run, "fit")}
    batch = choose_calibration(run, examples)
    assert len(batch) == 512
    assert all(example.numpy().tobytes() in fit for example in batch)


def test_a_network_with_other_layers_than_ours_is_quantised():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.first, self.second, self.last = (
                nn.LayerNorm(16),
                nn.Linear(16, 32),
                nn.Linear(32, 16),
                nn.Linear(16, 4),
            )

        def forward(self, batch):
            batch = batch.float()
            return self.last(batch + self.second(nn.functional.gelu(self.first(self.norm(batch)))))

    torch.manual_seed(0)
    student, x = Residual().eval(), torch.randn(256, 16)
    small = quantise(student, x)
    with torch.inference_mode():
        expected = student(x)
    assert (small.answer(x) - expected).square().mean().sqrt() < 0.05 * expected.std()
