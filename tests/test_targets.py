"""The cache of soft targets: what is read is what was written, at any temperature."""

import numpy as np
import pytest
import torch

from raydistill.method.targets import SoftTargets, TargetsWriter, measure_kl_lost
from raydistill.training.losses import soften


def draw(examples=50, classes=40, scale=4.0):
    generator = torch.Generator().manual_seed(3)
    return torch.log_softmax(scale * torch.randn(examples, classes, generator=generator), 1)


def write(folder, log_probs, dense_classes=1024, top_k=8):
    with TargetsWriter(
        folder, examples=len(log_probs), classes=log_probs.shape[1], dense_classes=dense_classes, top_k=top_k
    ) as writer:
        for block in log_probs.split(17):
            writer.append(block)
    return SoftTargets.open(folder)


def test_dense_returns_log_q(tmp_path):
    log_probs = draw()
    rows = torch.tensor([3, 49, 0])
    torch.testing.assert_close(write(tmp_path, log_probs).read(rows), log_probs[rows], atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 5.0, 20.0])
def test_one_cache_serves_any_temperature(tmp_path, temperature):
    log_probs = draw()
    stored = soften(write(tmp_path, log_probs).read(torch.arange(50)), temperature)
    torch.testing.assert_close(stored, soften(log_probs, temperature), atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("dense_classes", [10, 1024])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_softened_targets_are_softened_log_q(tmp_path, dense_classes, temperature):
    log_probs = draw()
    log_probs[7] = torch.tensor([0.0, *[-torch.inf] * 39])
    targets, rows = write(tmp_path, log_probs, dense_classes), torch.tensor([7, 3, 49, 0])
    torch.testing.assert_close(
        targets.soften(rows, temperature), soften(targets.read(rows), temperature), rtol=1e-5, atol=1e-7
    )


def test_sparse_keeps_the_most_probable_and_the_exact_rest(tmp_path):
    log_probs = draw()
    targets = write(tmp_path, log_probs, dense_classes=10, top_k=8)
    assert targets.log_probs.shape == (50, 8)
    probs, exact = targets.read(torch.arange(50)).exp(), log_probs.exp()
    top = exact.topk(8, 1).indices
    torch.testing.assert_close(probs.gather(1, top), exact.gather(1, top), rtol=5e-3, atol=1e-6)
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-5)
    rest = probs.scatter(1, top, 0.0)
    torch.testing.assert_close(rest.sum(1), exact.scatter(1, top, 0.0).sum(1), rtol=2e-2, atol=1e-5)
    others = rest[rest > 0].view(50, -1)
    assert others.shape[1] == 32
    torch.testing.assert_close(others.amax(1), others.amin(1))


def test_wide_sparse_is_dense(tmp_path):
    log_probs = draw()
    assert write(tmp_path, log_probs, dense_classes=10, top_k=40).log_probs.shape == (50, 40)


def test_kl_lost_agrees_with_formula_and_shrinks_with_k(tmp_path):
    log_probs, rows = draw(), torch.arange(50)
    lost = []
    for top_k in (4, 16, 39):
        targets = write(tmp_path / str(top_k), log_probs, dense_classes=10, top_k=top_k)
        reported = measure_kl_lost(targets, rows, log_probs, (1.0, 5.0))
        for temperature in (1.0, 5.0):
            p = soften(log_probs, temperature).double().numpy()
            q = soften(targets.read(rows), temperature).double().numpy()
            assert reported[f"{temperature:g}"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), abs=1e-6)
        lost.append(reported["1"])
    assert lost[0] > lost[1] > lost[2] >= 0


def test_impossible_classes_stay_impossible(tmp_path):
    log_probs = torch.tensor([[0.0, -torch.inf, -torch.inf], [-torch.inf, np.log(0.5), np.log(0.5)]])
    probs = write(tmp_path, log_probs).read(torch.tensor([0, 1])).exp()
    torch.testing.assert_close(probs, torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]), atol=1e-3, rtol=0)


def test_missing_rows_leave_no_cache(tmp_path):
    log_probs = draw()
    with (
        pytest.raises(ValueError, match="50"),
        TargetsWriter(tmp_path, examples=50, classes=40, dense_classes=100, top_k=8) as writer,
    ):
        writer.append(log_probs[:20])
    assert list(tmp_path.iterdir()) == []


def test_reading_cannot_change_the_file(tmp_path):
    log_probs = draw()
    targets = write(tmp_path, log_probs)
    before = (tmp_path / "log_probs.npy").read_bytes()
    targets.log_probs.add_(1)
    assert (tmp_path / "log_probs.npy").read_bytes() == before
