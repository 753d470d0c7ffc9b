"""The tail of the soft targets against formulas in numpy, and where it must be exact."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from raydistill.method.tails import CLOSE, TailBasis, choose_classes, count_components, find_largest, fit_tail
from raydistill.method.targets import SoftTargets, TargetsWriter, measure_kl_lost


def draw(examples=200, classes=60, rank=6, noise=0.0, seed=3):
    """A teacher whose logits have a rank, and noise on top."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, rank, generator=generator)
    logits = 2 * features @ torch.randn(rank, classes, generator=generator)
    logits += torch.randn(classes, generator=generator) + noise * torch.randn(examples, classes, generator=generator)
    return torch.log_softmax(logits, 1)


def write(folder, log_probs, tail, top_k=8):
    with TargetsWriter(
        folder, examples=len(log_probs), classes=log_probs.shape[1], dense_classes=2, top_k=top_k, tail=tail
    ) as writer:
        for block in log_probs.split(17):
            writer.append(block)
    return SoftTargets.open(folder)


def complete(targets, row):
    """Log q of one example, by a formula of its own."""
    tails = targets.tails
    tail = (
        tails.basis.mean.numpy() + tails.coefficients[row].numpy().astype(np.float64) @ tails.basis.directions.numpy()
    )
    tail += float(tails.offsets[row])
    tail[targets.class_ids[row].numpy()] = targets.log_probs[row].numpy()
    return tail


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0, 20.0])
def test_agrees_with_numpy(tmp_path, temperature):
    log_probs = draw(noise=0.5)
    targets, rows = write(tmp_path, log_probs, fit_tail(log_probs, 4)), torch.tensor([3, 199, 0])
    expected = np.stack([complete(targets, row) for row in rows.tolist()])
    np.testing.assert_allclose(targets.read(rows), log_softmax(expected, 1), atol=2e-5)
    np.testing.assert_allclose(targets.soften(rows, temperature), softmax(expected / temperature, 1), atol=1e-6)


def test_mass_of_the_rest_is_exact(tmp_path):
    log_probs = draw(noise=0.5)
    targets, rows = write(tmp_path, log_probs, fit_tail(log_probs, 4)), torch.arange(200)
    said, exact = (x.double().scatter(1, targets.class_ids.long(), -np.inf) for x in (targets.read(rows), log_probs))
    np.testing.assert_allclose(targets.rest, exact.logsumexp(1), atol=1e-5)
    completed = np.stack([complete(targets, row) for row in range(200)])
    np.put_along_axis(completed, targets.class_ids.long().numpy(), -np.inf, 1)
    np.testing.assert_allclose(logsumexp(completed, 1), targets.rest, atol=1e-5)
    np.testing.assert_allclose(said.exp().sum(1), exact.exp().sum(1), atol=2e-3)  # by the float16 of the others


def test_loses_less_with_rank_and_nothing_at_the_true_one(tmp_path):
    log_probs, rows = draw(), torch.arange(200)
    lost = []
    for rank in (0, 4, 5, 6, 20):
        tail = fit_tail(log_probs, rank) if rank else None
        targets = write(tmp_path / str(rank), log_probs, tail)
        assert rank < 6 or targets.tails.basis.rank == 6
        lost.append(measure_kl_lost(targets, rows, log_probs, (1.0, 2.0, 5.0)))
    for temperature in ("1", "2", "5"):
        values = [value[temperature] for value in lost]
        assert values[0] > values[1] > values[2] > values[3]
        assert values[3] < 1e-5
        assert values[4] < 1e-5


def test_holds_for_images_that_it_was_not_fitted_to(tmp_path):
    log_probs = draw(noise=0.05)
    tail = fit_tail(log_probs[:150], 6)
    targets = write(tmp_path, log_probs[150:], tail)
    lost = measure_kl_lost(targets, torch.arange(50), log_probs[150:], (1.0, 5.0))
    assert max(lost.values()) < 1e-3


def test_components_are_those_of_numpy():
    log_probs = draw(noise=0.5)
    tail = fit_tail(log_probs, 4)
    rows = log_probs.double().numpy()
    rows = rows - rows.mean(1, keepdims=True)
    np.testing.assert_allclose(tail.mean, rows.mean(0), atol=2e-3)
    rows -= rows.mean(0)
    directions = np.linalg.svd(rows, full_matrices=False)[2][:4]
    np.testing.assert_allclose(np.abs(np.sum(tail.directions.numpy() * directions, 1)), 1, atol=1e-3)
    coefficients = tail.project(log_probs).double().numpy()
    np.testing.assert_allclose(coefficients, rows @ tail.directions.numpy().T, atol=5e-2)
    assert torch.equal(TailBasis.unpack(torch.from_numpy(tail.pack())).directions, tail.directions)


def test_fit_leaves_the_seed_alone_and_repeats_itself():
    log_probs = draw(noise=0.5)
    torch.manual_seed(1)
    first = fit_tail(log_probs, 4)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first.directions, fit_tail(log_probs, 4).directions)


@pytest.mark.parametrize(("sizes", "kept"), [([3.0, 2.0, 1.0], 3), ([3.0, 2.0], 3), ([3.0, 2.0, 1.0, 1e-4], 3)])
def test_components_that_say_it_all_are_counted(sizes, kept):
    assert count_components(torch.tensor(sizes), 14.0, 10) == kept
    assert CLOSE**2 * 10 < 1


def test_classes_are_stored_where_the_tail_errs():
    log_probs = draw(examples=5)
    predicted = log_probs + 3.0
    predicted[:, 7] += 4.0
    chosen = choose_classes(log_probs, predicted, 4)
    assert (chosen == 7).any(1).all()
    top = choose_classes(log_probs, log_probs - 1.0, 4).sort(1).values
    assert torch.equal(top, log_probs.topk(4, 1).indices.sort(1).values)


def test_impossible_classes_do_not_bend_the_tail(tmp_path):
    log_probs = draw()
    log_probs[:, 5] = -torch.inf
    log_probs[4] = -torch.inf
    log_probs[4, 9] = 0.0
    targets = write(tmp_path, log_probs, fit_tail(log_probs, 8))
    softened = targets.soften(torch.arange(200), 2.0)
    assert torch.isfinite(softened).all()
    torch.testing.assert_close(softened[4, 9], torch.tensor(1.0))
    exact = torch.softmax(log_probs / 2.0, 1)
    torch.testing.assert_close(softened, exact, atol=2e-2, rtol=0)


@pytest.mark.parametrize("count", [1, 3, 60, 299, 300])
@pytest.mark.parametrize("values", ["normal", "whole", "equal", "infinite"])
def test_largest_are_those_of_topk(count, values):
    drawn = torch.randn(7, 300, generator=torch.Generator().manual_seed(1))
    drawn = {"normal": drawn, "whole": drawn.round(), "equal": 0 * drawn, "infinite": drawn}[values]
    if values == "infinite":
        drawn[:, 40:] = -torch.inf
        drawn[2, 1] = torch.inf
    chosen = find_largest(drawn, count)
    assert all(len(set(row)) == count for row in chosen.tolist())
    assert torch.equal(drawn.gather(1, chosen).sort(1, descending=True).values, drawn.topk(count, 1).values)


def test_nan_is_refused(tmp_path):
    log_probs = draw()
    log_probs[3] = torch.nan
    with pytest.raises(ValueError, match="NaN; check"):
        write(tmp_path, log_probs, None)
    with pytest.raises(ValueError, match="NaN; check"):
        write(tmp_path, log_probs, fit_tail(draw(), 4))
    assert not list(tmp_path.glob("*[!l].npy"))


@pytest.mark.parametrize("rank", [0, -1, 60])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(ValueError, match=f"rank: {rank} is not allowed; give 1 to 59"):
        fit_tail(draw(), rank)


def test_empty_samples_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        fit_tail(draw()[:0], 4)


def test_the_tail_of_another_teacher_is_refused(tmp_path):
    with pytest.raises(ValueError, match="made for 60 classes, not 50"):
        write(tmp_path, draw(classes=50), fit_tail(draw(), 4))


def test_dense_caches_have_no_tail(tmp_path):
    log_probs = draw()
    with TargetsWriter(
        tmp_path, examples=200, classes=60, dense_classes=60, top_k=8, tail=fit_tail(log_probs, 4)
    ) as writer:
        writer.append(log_probs)
    assert SoftTargets.open(tmp_path).tails is None
    assert not (tmp_path / "tail.npy").exists()


def test_rewriting_leaves_nothing_of_the_old(tmp_path):
    log_probs = draw()
    write(tmp_path, log_probs, fit_tail(log_probs, 4))
    targets = write(tmp_path, log_probs, None)
    assert targets.tails is None
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["class_ids", "log_probs", "rest", "targets"]
