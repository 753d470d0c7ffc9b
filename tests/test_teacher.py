"""The teacher against the same answer worked out image by image in numpy; what it runs, and what it leaves alone."""

import numpy as np
import pytest
import torch
from torch import nn

from raydistill.method.specialists import Group
from raydistill.method.teacher import Ensemble, SeedEnsemble, Teachers

CLASSES, FEATURES = 6, 4
GROUPS = [[0, 1], [1, 2, 3], [3, 5]]  # class 4 is in none


class Spy(nn.Module):
    """A linear network with dropout and batch normalisation that remembers the examples it was asked for."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.dropout = nn.BatchNorm1d(FEATURES), nn.Dropout(0.5)
        self.linear = nn.Linear(FEATURES, CLASSES)
        nn.init.normal_(self.linear.weight, std=1.5)
        self.asked = []

    def forward(self, batch):
        self.asked.append(batch)
        return self.linear(self.dropout(self.norm(batch.float())))


def build_teacher(dustbin="merged", top_n=1):
    with torch.random.fork_rng():
        networks = [Spy(seed) for seed in range(4)]
    groups = [Group(torch.tensor(members), CLASSES, dustbin) for members in GROUPS]
    return Ensemble(networks[0], networks[1:], groups, top_n)


def draw(count=40, seed=0):
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))


def softmax_by_hand(network, example):
    """log softmax(W norm(x) + b) in numpy; batch normalisation has seen nothing yet."""
    weight, bias = (x.detach().numpy().astype(np.float64) for x in (network.linear.weight, network.linear.bias))
    logits = weight @ (example.numpy().astype(np.float64) / np.sqrt(1 + network.norm.eps)) + bias
    return logits - np.logaddexp.reduce(logits)


def reduce_by_hand(log_probs, members, dustbin):
    """The specialist's probabilities over its classes and the dustbin."""
    rest = [label for label in range(CLASSES) if label not in members]
    outside = np.logaddexp.reduce(log_probs[rest]) if dustbin == "merged" else log_probs[rest[0]]
    kept = np.append(log_probs[members], outside)
    return np.exp(kept - np.logaddexp.reduce(kept))


def combine_by_hand(generalist, specialists):
    """Equation 5 by EM until it stands. specialists: (members, probabilities with the dustbin) of the active ones."""
    q, before = generalist.copy(), np.zeros_like(generalist)
    while specialists and np.abs(q - before).max() > 1e-9:
        before, completed = q, [generalist]
        for members, probs in specialists:
            guess = q / np.delete(q, members).sum() * probs[-1]
            guess[members] = probs[:-1]
            completed.append(guess)
        q = np.mean(completed, axis=0)
    return q


@pytest.mark.parametrize(("dustbin", "top_n"), [("merged", 1), ("merged", 2), ("single", 1)])
def test_answers_as_worked_out_by_hand(dustbin, top_n):
    teacher, x = build_teacher(dustbin, top_n), draw()
    output = teacher.combine(x, torch.arange(40))
    sizes = set()
    for image, example in enumerate(x):
        log_generalist = softmax_by_hand(teacher.generalist, example)
        top = set(np.argsort(-log_generalist)[:top_n].tolist())
        active = [bool(top & set(members)) for members in GROUPS]
        asked = [
            (members, reduce_by_hand(softmax_by_hand(network, example), members, dustbin))
            for members, network, on in zip(GROUPS, teacher.specialists, active, strict=True)
            if on
        ]
        sizes.add(len(asked))
        assert output.active[image].tolist() == active
        np.testing.assert_allclose(output.generalist_log_probs[image], log_generalist, atol=1e-5)
        expected = combine_by_hand(np.exp(log_generalist), asked)
        np.testing.assert_allclose(output.log_probs[image].exp(), expected, atol=2e-5)
    assert len(sizes) >= 3
    assert output.gap.max() <= 1e-9


def test_call_is_combine_over_all_rows():
    teacher, x = build_teacher(), draw()
    assert torch.equal(teacher(x), teacher.combine(x, torch.arange(40)).log_probs)


def test_rows_are_taken_in_the_order_given():
    teacher, x, rows = build_teacher(), draw(), torch.tensor([7, 3, 39, 3])
    torch.testing.assert_close(teacher.combine(x, rows).log_probs, teacher(x)[rows])


def test_a_specialist_runs_only_where_it_is_active():
    teacher, x = build_teacher(), draw()
    active = teacher.combine(x, torch.arange(40)).active
    assert torch.equal(torch.cat(teacher.generalist.asked), x)
    for network, rows in zip(teacher.specialists, active.T, strict=True):
        assert 0 < rows.sum() < 40
        assert len(network.asked) == 1
        assert torch.equal(network.asked[0], x[rows])


def test_a_specialist_that_nobody_asks_does_not_run():
    teacher, x = build_teacher(), draw()
    active = teacher.combine(x, torch.arange(40)).active
    rows = torch.nonzero(~active.any(1)).squeeze(1)
    assert len(rows) > 0
    before = [len(network.asked) for network in teacher.specialists]
    output = teacher.combine(x, rows)
    assert [len(network.asked) for network in teacher.specialists] == before
    assert torch.equal(output.log_probs, output.generalist_log_probs)


def test_networks_stay_as_they_are():
    """No gradient, no batch statistics, and the mode that each was in."""
    teacher, x = build_teacher(), draw()
    networks = [teacher.generalist, *teacher.specialists]
    for network, training in zip(networks, (True, False, True, False), strict=True):
        network.train(training)
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    log_probs = teacher(x)
    assert not log_probs.requires_grad
    assert torch.equal(log_probs, teacher(x))  # dropout is off
    assert [network.training for network in networks] == [True, False, True, False]
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


def test_whole_numbers_are_taken_as_they_are_stored():
    teacher = build_teacher()
    x = torch.randint(0, 5, (30, FEATURES), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    torch.testing.assert_close(teacher(x), teacher(x.float()))
    assert all(part.dtype == torch.uint8 for part in teacher.generalist.asked[:1])


def test_members_are_the_groups():
    assert [torch.nonzero(row).squeeze(1).tolist() for row in build_teacher().members] == GROUPS


def test_no_rows_no_answers():
    output = build_teacher().combine(draw(), torch.arange(0))
    assert output.log_probs.shape == (0, CLASSES)
    assert output.active.shape == (0, 3)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_seeds_are_averaged_as_by_hand(mean):
    members = build_teacher().specialists
    batch = draw()
    answers = SeedEnsemble(members, mean)(batch)
    for example, answer in zip(batch, answers.numpy(), strict=True):
        alone = np.stack([softmax_by_hand(member, example) for member in members])
        if mean == "arithmetic":
            expected = np.exp(alone).mean(axis=0)
        else:
            expected = np.exp(alone).prod(axis=0) ** (1 / len(members))
            expected /= expected.sum()
        np.testing.assert_allclose(np.exp(answer), expected, atol=1e-6)


def test_seeds_that_are_sure_are_averaged_exactly():
    """Where probabilities are below what float32 holds, their logs are not."""
    members, batch = build_teacher().specialists, draw()
    for member in members:
        nn.init.normal_(member.linear.weight, std=20)
    alone = np.stack([[softmax_by_hand(member, example) for member in members] for example in batch])
    expected = np.logaddexp.reduce(alone, axis=1) - np.log(len(members))
    lowest = expected.min(axis=1)
    assert (lowest < -90).any()
    assert (lowest > -60).any()
    np.testing.assert_allclose(SeedEnsemble(members)(batch), expected, rtol=1e-5, atol=1e-5)


def test_all_teachers_together_answer_as_each_alone():
    ensemble = build_teacher()
    seeds = SeedEnsemble([ensemble.generalist, *build_teacher().specialists])
    batch, rows = draw(), torch.arange(5, 25)
    answers = Teachers(ensemble.generalist, ensemble, seeds).answer(batch, rows)
    alone = ensemble.combine(batch, rows)
    torch.testing.assert_close(answers.log_probs["ensemble"], alone.log_probs)
    torch.testing.assert_close(answers.log_probs["generalist"], alone.generalist_log_probs)
    torch.testing.assert_close(answers.log_probs["seeds"], seeds(batch[rows]))
    assert torch.equal(answers.active, alone.active)
    only = Teachers(ensemble.generalist).answer(batch, rows)
    assert list(only.log_probs) == ["generalist"]
    assert only.active is None
    assert only.gap is None
