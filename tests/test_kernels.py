"""Compiled loops against formulas in float64, and against the PyTorch operations that other devices use."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from raydistill.data.arrays import prepare_images, shift_images
from raydistill.kernels import launch, numbers
from raydistill.kernels.launch import compile_kernel, has_kernels
from raydistill.method.targets import SoftTargets
from raydistill.training.losses import distil, label_loss

CPU = torch.device("cpu")


def draw(examples=9, classes=37, seed=0, scale=4.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(examples, classes, generator=generator)
    log_probs = torch.log_softmax(scale * torch.randn(2 * examples, classes, generator=generator), 1)
    return logits, log_probs, torch.randint(classes, (examples,), generator=generator)


def distil_by_numpy(logits, targets, labels, temperature, label_weight):
    """Loss, and the gradient of its mean, in float64."""
    z, p, rows = logits.numpy().astype(float), targets, np.arange(len(logits))
    loss = -(1 - label_weight) * temperature**2 * (p * log_softmax(z / temperature, 1)).sum(1)
    loss -= label_weight * log_softmax(z, 1)[rows, labels]
    gradient = (1 - label_weight) * temperature * (softmax(z / temperature, 1) - p)
    gradient += label_weight * (softmax(z, 1) - np.eye(z.shape[1])[labels])
    return loss, gradient / len(z)


def test_exponential_is_within_the_last_digits():
    x = np.linspace(-87, 88, 100_001, dtype=np.float32)
    got = np.array([numbers.exp32(value) for value in x])
    np.testing.assert_allclose(got, np.exp(x.astype(float)), rtol=2e-7)
    assert 0 < numbers.exp32(np.float32(-np.inf)) < 2e-38
    assert np.isnan(numbers.exp32(np.float32(np.nan)))


def test_halves_become_the_same_numbers():
    bits = np.arange(-(2**15), 2**15, dtype=np.int64).astype(np.int16)
    halves = bits.view(np.float16)
    finite = np.isfinite(halves)
    got = np.array([numbers.widen_half(value) for value in bits[finite]])
    np.testing.assert_array_equal(got, halves[finite].astype(np.float32))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("label_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # by the kernel, by operations
def test_distillation(temperature, label_weight, dtype):
    logits, log_probs, labels = draw()
    targets = softmax(log_probs[:9].numpy().astype(float) / temperature, 1)
    loss, gradient = distil(logits.to(dtype), torch.from_numpy(targets).to(dtype), labels, temperature, label_weight)
    expected = distil_by_numpy(logits, targets, labels, temperature, label_weight)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(loss, expected[0], rtol=2e-6)
    np.testing.assert_allclose(gradient, expected[1], atol=2e-6 * temperature)


@pytest.mark.parametrize("kept", [37, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_with_stored_targets(kept, temperature):
    """Of all classes, and of the 5 most probable with an even rest."""
    logits, log_probs, labels = draw()
    positions = torch.tensor([3, 17, 0, 8, 8, 1, 12, 5, 2])
    top = log_probs.topk(kept, dim=1)
    targets = SoftTargets(log_probs.half(), 37)
    if kept < 37:
        rest = torch.log1p(-top.values.exp().sum(1))
        targets = SoftTargets(top.values.half(), 37, top.indices.short(), rest)
    softened = softmax(targets.read(positions).numpy().astype(float) / temperature, 1)
    loss, gradient = targets.distil(logits, positions, labels, temperature, 0.4)
    expected = distil_by_numpy(logits, softened, labels, temperature, 0.4)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-6)
    by_operations = targets.distil(logits.double(), positions, labels, temperature, 0.4)
    torch.testing.assert_close((loss, gradient), by_operations, check_dtype=False, rtol=1e-5, atol=1e-6)


def test_label_loss_of_hostile_logits():
    logits, _, labels = draw()
    logits[0, 3], logits[1] = 1e30, -torch.inf
    logits[1, labels[1]] = 2.0
    loss, gradient = label_loss(logits, labels)
    by_autograd = label_loss(logits.double(), labels)
    torch.testing.assert_close((loss, gradient), by_autograd, check_dtype=False, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("column", [0, 20, 36])
def test_a_logit_that_is_no_number_makes_the_loss_none(column):
    """Or training would go on with what is lost."""
    logits, log_probs, labels = draw()
    logits[2, column] = torch.nan
    for loss, _ in (label_loss(logits, labels), distil(logits, log_probs[:9].exp(), labels, 2.0, 0.5)):
        assert torch.isnan(loss[2])
        assert torch.isfinite(loss[[0, 1, 3, 4, 5, 6, 7, 8]]).all()


@pytest.mark.parametrize("shape", [(8, 7), (3, 8, 7), (8, 7, 3), (5, 8, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64, torch.float16])
def test_images_are_taken_and_shifted_as_by_operations(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 200, (20, *shape), generator=generator).to(dtype)
    rows = torch.randint(20, (30,), generator=generator)
    shifts = torch.randint(-9, 10, (30, 2), generator=generator)  # some leave nothing of the image
    taken = prepare_images(images, CPU)(rows, shifts)
    assert torch.equal(taken, shift_images(images[rows], shifts))


def test_results_do_not_depend_on_the_threads():
    logits, log_probs, labels = draw(300)
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        results.append(distil(logits, log_probs[:300].exp(), labels, 2.0, 0.5))
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_kernels_use_as_many_threads_as_pytorch(monkeypatch):
    asked = []
    monkeypatch.setattr(launch.numba, "set_num_threads", asked.append)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    label_loss(*draw()[::2])
    torch.set_num_threads(before)
    assert asked == [1]


def test_starting_kernels_keeps_the_threads_that_the_environment_asks_for():
    program = "import raydistill.kernels.losses, torch; print(torch.get_num_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (printed.stdout.strip(), printed.stderr) == ("1", "")


def test_other_devices_types_and_layouts_have_no_kernels():
    assert has_kernels(torch.zeros(3, 4))
    assert not has_kernels(torch.zeros(3, 4, device="meta"))
    assert not has_kernels(torch.zeros(3, 4, dtype=torch.float64))
    assert not has_kernels(torch.zeros(4, 3).t())
    assert callable(compile_kernel(lambda out: None))


def weigh_by_row(logits, softened, labels, temperature, label_weight):
    """Loss, and the gradient of its mean, where rows without a label (-1) have none of the label's weight."""
    rows = [
        distil_by_numpy(logits[i : i + 1], softened[i : i + 1], labels[i : i + 1].clamp_min(0), temperature, weight)
        for i, weight in enumerate(np.where(labels >= 0, label_weight, 0.0))
    ]
    return np.concatenate([loss for loss, _ in rows]), np.concatenate([gradient for _, gradient in rows]) / len(rows)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("label_weight", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # by the kernel, by operations
@pytest.mark.parametrize("form", ["given", "dense", "sparse"])
def test_rows_without_a_label_learn_from_the_teacher_alone(temperature, label_weight, dtype, form):
    logits, log_probs, labels = draw()
    labels[[0, 4, 8]] = -1
    positions = torch.tensor([3, 17, 0, 8, 8, 1, 12, 5, 2])
    top = log_probs.topk(5, dim=1)
    targets = SoftTargets(log_probs.half(), 37)
    if form == "sparse":
        targets = SoftTargets(top.values.half(), 37, top.indices.short(), torch.log1p(-top.values.exp().sum(1)))
    softened = softmax(targets.read(positions).numpy().astype(float) / temperature, 1)
    if form == "given":
        got = distil(logits.to(dtype), torch.from_numpy(softened).to(dtype), labels, temperature, label_weight)
    else:
        got = targets.distil(logits.to(dtype), positions, labels, temperature, label_weight)
    expected = weigh_by_row(logits, softened, labels, temperature, label_weight)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], expected[1], atol=1e-6)
