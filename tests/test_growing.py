"""Growing, on planted cases: weights follow class names, groups keep what holds, kept specialists claim nothing new."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from raydistill.errors import ModelError
from raydistill.method.ensemble import choose_active, solve_ensemble
from raydistill.method.growing import grow_members, map_classes, map_weights, measure_change, measure_odds
from raydistill.method.specialists import Group, specialist_log_probs
from raydistill.networks.models import mlp

OLD, NEW = ("a", "b", "c", "d"), ("x", "d", "a", "c", "b")


def test_outputs_follow_class_names():
    torch.manual_seed(0)
    old, new = mlp((6,), 4, hidden=(5,)), mlp((6,), 5, hidden=(5,))
    fresh = mlp((6,), 5, hidden=(5,))
    fresh.load_state_dict(new.state_dict())
    new.load_state_dict(map_weights(old.state_dict(), new, OLD, NEW))
    batch = torch.randn(7, 6)
    torch.testing.assert_close(new(batch)[:, [2, 4, 3, 1]], old(batch))
    torch.testing.assert_close(new[-1].weight[0], fresh[-1].weight[0])


def test_a_hidden_layer_as_wide_as_there_are_classes_stays():
    torch.manual_seed(0)
    old, new = mlp((6,), 4, hidden=(4,)), mlp((6,), 4, hidden=(4,))
    swapped = ("b", "a", "c", "d")
    new.load_state_dict(map_weights(old.state_dict(), new, OLD, swapped))
    batch = torch.randn(7, 6)
    torch.testing.assert_close(new(batch)[:, [1, 0, 2, 3]], old(batch))


def test_outputs_that_are_no_linear_layer():
    old, new = nn.Conv1d(3, 4, 1), nn.Conv1d(3, 5, 1)
    mapped = map_weights(old.state_dict(), new, OLD, NEW)
    torch.testing.assert_close(mapped["weight"][[2, 4, 3, 1]], old.weight.detach())


def test_another_architecture_is_refused():
    with pytest.raises(ModelError, match=r"has shape \(5, 6\) there and \(8, 6\) here"):
        map_weights(mlp((6,), 4, hidden=(5,)).state_dict(), mlp((6,), 5, hidden=(8,)), OLD, NEW)
    with pytest.raises(ModelError, match="is in one of the networks alone"):
        map_weights(mlp((6,), 4, hidden=(5, 5)).state_dict(), mlp((6,), 5, hidden=(5,)), OLD, NEW)


def plant(classes, families, faint=0.01):
    """Affinity of classes that are confused within families, and a little with all others."""
    affinity = np.full((classes, classes), faint)
    for family in families:
        affinity[np.ix_(family, family)] = 1.0
    np.fill_diagonal(affinity, 0.0)
    return affinity


BEFORE = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=bool)
OLD_AFFINITY = plant(6, [[0, 1, 2], [3, 4, 5]])


def grow(places, affinity, **options):
    return grow_members(BEFORE, np.array(places), affinity, OLD_AFFINITY, **{"overlap": 0.0, **options})


def test_a_new_class_joins_its_family_and_the_other_group_is_untouched():
    grown = grow([0, 1, 2, 3, 4, 5, -1], plant(7, [[0, 1, 2], [3, 4, 5, 6]]))
    assert grown.sources == (0, 1)
    assert grown.gained == ((), (6,))
    np.testing.assert_array_equal(np.flatnonzero(grown.members[1]), [3, 4, 5, 6])
    np.testing.assert_array_equal(np.flatnonzero(grown.members[0]), [0, 1, 2])


def test_a_class_between_two_families_joins_both():
    affinity = plant(7, [[0, 1, 2], [3, 4, 5]])
    affinity[6, :6] = affinity[:6, 6] = 0.5
    assert grow([0, 1, 2, 3, 4, 5, -1], affinity).gained == ((6,), (6,))


def test_a_new_family_makes_a_group_of_its_own():
    grown = grow([0, 1, 2, 3, 4, 5, -1, -1, -1], plant(9, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]))
    assert grown.sources == (0, 1, -1)
    assert grown.gained == ((), (), ())
    np.testing.assert_array_equal(np.flatnonzero(grown.members[2]), [6, 7, 8])


def test_many_new_classes_make_groups_of_the_usual_size():
    families = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    grown = grow([0, 1, 2, 3, 4, 5, *[-1] * 6], plant(12, families))
    assert {tuple(np.flatnonzero(row)) for row in grown.members} == {tuple(family) for family in families}


def test_classes_that_are_gone_leave_and_a_group_of_one_is_dissolved():
    grown = grow([0, 1, 3, -1], plant(4, [[0, 1], [2, 3]]))
    assert grown.dissolved == (1,)
    assert grown.sources == (0, -1)  # what is left of the second group is with the new class
    np.testing.assert_array_equal(np.flatnonzero(grown.members[1]), [2, 3])


def test_a_group_that_is_confused_with_others_now_is_dissolved():
    affinity = plant(6, [[0, 1, 2]])
    affinity[np.ix_([3, 4, 5], [0, 1, 2])] = affinity[np.ix_([0, 1, 2], [3, 4, 5])] = 0.5
    grown = grow([0, 1, 2, 3, 4, 5], affinity)
    assert grown.dissolved == (1,)
    assert grown.gained == ((4, 5),)  # a group of all classes would have nothing outside


def test_a_group_of_all_that_is_left_is_dissolved():
    affinity = np.array([[0, 1, 0.2], [1, 0, 0.1], [0.2, 0.1, 0]])
    grown = grow([0, 1, 2], affinity)
    assert (grown.dissolved, grown.sources) == ((0, 1), (-1,))
    np.testing.assert_array_equal(grown.members, [[True, True, False]])  # what is least confused is left outside


def test_every_group_has_two_classes_and_one_outside():
    generator = np.random.default_rng(0)
    for _ in range(300):
        old, new = generator.integers(4, 9, 2)
        members = generator.random((3, old)) < 0.5
        places = np.where(generator.random(new) < 0.3, -1, np.resize(generator.permutation(old), new))
        places[old:] = -1
        pulls = [np.triu(generator.random((classes, classes)), 1) for classes in (new, old)]
        affinity, old_affinity = (pull + pull.T for pull in pulls)
        sizes = grow_members(members, places, affinity, old_affinity, overlap=0.5).members.sum(axis=1)
        assert ((sizes >= 2) & (sizes < new)).all()


def test_nothing_new_changes_nothing():
    grown = grow([0, 1, 2, 3, 4, 5], OLD_AFFINITY)
    np.testing.assert_array_equal(grown.members, BEFORE)
    assert grown.gained == ((), ())
    permuted = grow([5, 4, 3, 2, 1, 0], OLD_AFFINITY[::-1, ::-1])
    np.testing.assert_array_equal(permuted.members, BEFORE[:, ::-1])


def test_places_of_classes():
    np.testing.assert_array_equal(map_classes(OLD, NEW), [-1, 3, 0, 2, 1])


def test_changes_of_data():
    old, new = {"a": {1, 2, 3, 4}, "b": {5, 6}}, {"a": {1, 2, 3, 7}, "b": {5, 6, 8, 9}}
    assert measure_change(old, new, ["a"]) == 2 / 4
    assert measure_change(old, new, ["a", "b"]) == 4 / 6
    assert measure_odds(old, new, ["a"], ["b"]) == 2.0
    assert measure_odds(old, old, ["a"], ["b"]) == 1.0


def draw(unseen, seed=0):
    """Logits of a specialist and log-probabilities of a generalist, 6 classes, and the specialist's group."""
    random = np.random.default_rng(seed)
    logits, generalist = random.normal(size=(2, 20, 6)) * 3
    return logits, log_softmax(generalist, axis=1), Group(torch.tensor([1, 3]), 6, unseen=unseen)


def test_a_kept_specialist_leaves_unseen_classes_to_the_generalist():
    """Against the law of total probability, by plain probabilities."""
    logits, generalist, group = draw(unseen=(0, 5))
    said = specialist_log_probs(torch.from_numpy(logits), group, torch.from_numpy(generalist)).exp().numpy()
    seen, new = softmax(logits[:, [1, 2, 3, 4]], axis=1), np.exp(generalist[:, [0, 5]]).sum(axis=1, keepdims=True)
    expected = np.concatenate([seen[:, [0, 2]] * (1 - new), seen[:, [1, 3]].sum(1, keepdims=True) * (1 - new) + new], 1)
    np.testing.assert_allclose(said, expected, atol=1e-12)
    np.testing.assert_allclose(said.sum(axis=1), 1.0, atol=1e-12)


def test_its_logits_of_unseen_classes_are_never_read():
    logits, generalist, group = draw(unseen=(0, 5))
    others = logits.copy()
    others[:, [0, 5]] = 100.0
    one, two = (
        specialist_log_probs(torch.from_numpy(x), group, torch.from_numpy(generalist)) for x in (logits, others)
    )
    torch.testing.assert_close(one, two)


def test_it_needs_the_generalist():
    logits, _, group = draw(unseen=(0,))
    with pytest.raises(ValueError, match="needs its log-probabilities"):
        specialist_log_probs(torch.from_numpy(logits), group)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equation_5_holds_with_a_certified_gap(dtype):
    """One specialist that is kept, one that is new, two overlapping groups; q against a minimum found by gradient."""
    logits, generalist, kept = draw(unseen=(0, 5))
    generalist = torch.from_numpy(generalist).to(dtype)
    new = Group(torch.tensor([0, 3, 5]), 6)
    members = torch.stack([kept.inside, new.inside])
    active = choose_active(generalist, members, 6)
    answers = [
        specialist_log_probs(torch.from_numpy(logits).to(dtype), kept, generalist),
        specialist_log_probs(torch.from_numpy(logits[::-1].copy()).to(dtype), new),
    ]
    solution = solve_ensemble(generalist, members, active, answers)
    assert float(solution.gap.max()) <= 1e-9
    torch.testing.assert_close(solution.log_probs.exp().sum(1), torch.ones(20, dtype=dtype), atol=1e-5, rtol=0)
    if dtype == torch.float64:
        found, groups = descend(generalist, [kept, new], answers), [kept, new]
        values = [measure_objective(log_q, generalist, groups, answers) for log_q in (solution.log_probs, found)]
        assert bool((values[0] <= values[1] + 1e-9).all())
        torch.testing.assert_close(*values, atol=1e-3, rtol=0)


def descend(generalist, groups, answers):
    """log q by L-BFGS on the logits."""
    free = generalist.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")

    def objective():
        optimizer.zero_grad()
        loss = measure_objective(torch.log_softmax(free, dim=1), generalist, groups, answers).sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return torch.log_softmax(free.detach(), dim=1)


def measure_objective(log_q, generalist, groups, answers):
    """KL(p_g, q) + Σ KL(p_m, q) of the paper, but for the entropies, (N,)."""
    value = -(generalist.exp() * log_q).sum(dim=1)
    for group, said in zip(groups, answers, strict=True):
        outside = log_q[:, group.rest].logsumexp(dim=1, keepdim=True)
        value = value - (said.exp() * torch.cat([log_q[:, group.members], outside], 1)).sum(dim=1)
    return value
