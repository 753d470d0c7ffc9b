"""Groups: planted ones are found; growth, coverage, stability and forecast do what they say."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from raydistill.errors import ConfigError
from raydistill.method.confusion import build_affinity, keep_probable
from raydistill.method.groups import (
    check_group_count,
    choose_group_count,
    cluster_covariance,
    forecast_groups,
    group_classes,
    grow_groups,
    measure_mass_covered,
    measure_stability,
    name_group,
)
from raydistill.method.spectral import cluster_spectral


def plant(sizes, noise=0.02, seed=0):
    """Affinity with strong blocks of the given sizes, in shuffled order, and the true group of each class."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    affinity = np.where(truth[:, None] == truth, 1.0, 0.0) * rng.uniform(0.5, 1, (len(truth),) * 2)
    affinity += noise * rng.random(affinity.shape)
    affinity = (affinity + affinity.T) / 2
    np.fill_diagonal(affinity, 0)
    return affinity, truth


@pytest.mark.parametrize("seed", range(5))
def test_spectral_finds_planted_groups(seed):
    affinity, truth = plant([5, 8, 13, 4], seed=seed)
    assert adjusted_rand_score(truth, cluster_spectral(affinity, 4, seed=0)) == 1.0


def test_spectral_takes_disconnected_graphs_and_lonely_classes():
    affinity, truth = plant([4, 4, 4], noise=0.0)
    lonely = np.pad(affinity, (0, 1))
    assert adjusted_rand_score(truth, cluster_spectral(lonely, 3, seed=0)[:-1]) == 1.0


def test_kmeans_finds_planted_groups():
    affinity, truth = plant([6, 6, 6])
    assert adjusted_rand_score(truth, cluster_covariance(affinity + np.eye(18), 3, seed=0)) > 0.9


def test_growth_takes_the_most_confused():
    affinity = np.zeros((6, 6))
    for (i, j), strength in {(0, 1): 9, (2, 3): 9, (4, 5): 9, (1, 2): 3, (0, 4): 1}.items():
        affinity[i, j] = affinity[j, i] = strength
    members = grow_groups(np.array([0, 0, 1, 1, 2, 2]), affinity, overlap=0.5)
    assert [np.flatnonzero(row).tolist() for row in members] == [[0, 1, 2], [1, 2, 3], [0, 4, 5]]


def test_no_growth_is_the_partition():
    affinity, truth = plant([4, 5, 6])
    members = group_classes(affinity, 3, overlap=0.0)
    assert (members.sum(0) == 1).all()
    assert adjusted_rand_score(truth, members.argmax(0)) == 1.0


def test_growth_to_a_size():
    affinity, _ = plant([4, 5, 9])
    assert sorted(group_classes(affinity, 3, size=6).sum(1)) == [6, 6, 9]


def test_shuffled_groups_are_others_of_the_same_shape():
    affinity, _ = plant([4, 5, 9, 6])
    plain = group_classes(affinity, 4)
    shuffled = [group_classes(affinity, 4, shuffle=True, seed=seed) for seed in (0, 0, 1)]
    for members in shuffled:
        shared = members.astype(int) @ members.T
        np.testing.assert_array_equal(shared, plain.astype(int) @ plain.T)  # sizes and overlaps, group by group
        assert (members != plain).any(1).all()
        assert measure_mass_covered(members, affinity) < measure_mass_covered(plain, affinity)
    np.testing.assert_array_equal(shuffled[0], shuffled[1])
    assert (shuffled[0] != shuffled[2]).any()


@pytest.mark.parametrize("overlap", [0.0, 0.5, 4.0])
def test_sizes_stay_within_two_and_all_but_one(overlap):
    affinity, _ = plant([1, 1, 6, 2])
    sizes = grow_groups(np.array([0, 1, 2, 2, 2, 2, 2, 2, 3, 3]), affinity, overlap=overlap).sum(1)
    assert sizes.min() >= 2
    assert sizes.max() <= 9


def test_groups_that_grow_into_the_same_are_one():
    affinity = np.zeros((6, 6))
    affinity[0, 1] = affinity[1, 0] = 1.0
    members = grow_groups(np.array([0, 1, 2, 2, 2, 2]), affinity, overlap=0.5)
    assert [np.flatnonzero(row).tolist() for row in members] == [[0, 1], [2, 3, 4, 5]]


def draw_affinity(kind, classes, seed):
    rng = np.random.default_rng(seed)
    affinity = {
        "nothing": np.zeros((classes, classes)),
        "everything": np.ones((classes, classes)),
        "one pair": np.eye(classes, k=1) * (np.arange(classes) == 0)[:, None],
        "lonely classes": rng.random((classes, classes)) * (rng.random((classes, classes)) < 1 / classes),
        "ties": rng.integers(0, 2, (classes, classes)).astype(float),
        "faint": 1e-20 * rng.random((classes, classes)),
    }[kind]
    return build_affinity(affinity)


@pytest.mark.parametrize("kind", ["nothing", "everything", "one pair", "lonely classes", "ties", "faint"])
@pytest.mark.parametrize("method", ["spectral", "kmeans"])
@pytest.mark.parametrize("classes", [3, 4, 7, 12])
def test_groups_are_usable_whatever_is_confused(kind, method, classes):
    """At least 2 groups, all different, of 2 to K - 1 classes, and each class in one."""
    for groups, overlap in itertools.product({2, max(2, classes // 2)}, (0.0, 0.5, 4.0)):
        affinity = draw_affinity(kind, classes, groups)
        covariance = affinity.toarray() - np.diag(affinity.sum(1)) if method == "kmeans" else None
        members = group_classes(affinity, groups, covariance=covariance, overlap=overlap)
        assert 2 <= len(np.unique(members, axis=0)) == len(members) <= groups
        assert 2 <= members.sum(1).min() <= members.sum(1).max() <= classes - 1
        assert members.any(0).all()


@pytest.mark.parametrize(("groups", "classes"), [(1, 10), (6, 10), (11, 10), (3, 3)])
def test_refuses_counts(groups, classes):
    with pytest.raises(ConfigError, match=f"specialists.groups: {groups}"):
        check_group_count(groups, classes)


def test_default_counts_are_allowed():
    for classes in (3, 10, 523, 2965, 15000):
        check_group_count(choose_group_count(classes), classes)
    assert choose_group_count(523) == 16


def test_mass_covered_counts_pairs():
    affinity, _ = plant([4, 5, 6])
    members = group_classes(affinity, 3, overlap=0.5)
    total = covered = 0.0
    for i, j in itertools.permutations(range(15), 2):
        total += affinity[i, j]
        covered += affinity[i, j] * any(row[i] and row[j] for row in members)
    assert measure_mass_covered(members, affinity) == pytest.approx(covered / total, rel=1e-6)
    assert measure_mass_covered(np.ones((1, 15), bool), affinity) == pytest.approx(1.0)


def draw_predictions(seed=0, examples=6000):
    """Predictions of a generalist that confuses 0-1-2, 3-4-5, and 6-7-8 among themselves."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(9, (examples,), generator=generator)
    logits = torch.randn(examples, 9, generator=generator)
    logits[torch.arange(9)[None] // 3 == labels[:, None] // 3] += 4
    return keep_probable([logits], examples), labels


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
def test_clear_groups_are_stable(method):
    predictions, labels = draw_predictions()
    scores = measure_stability(predictions, labels, 3, affinity="soft", method=method, bootstraps=4, seed=0)
    assert scores == [1.0] * 4


def test_noise_is_not_stable():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 12, generator=generator), torch.randint(12, (300,), generator=generator)
    predictions = keep_probable([logits], 300)
    scores = measure_stability(predictions, labels, 4, affinity="hard", method="spectral", bootstraps=4, seed=0)
    assert np.mean(scores) < 0.5


def test_forecast_counts_what_perfect_specialists_mend():
    predictions, labels = draw_predictions()
    members = np.zeros((2, 9), bool)
    members[0, :3] = members[1, 2:6] = True
    fit_labels = torch.arange(9).repeat(10)
    forecasts, together = forecast_groups(members, predictions, labels, fit_labels, top_n=1, group_share=0.5)
    predicted = predictions.top[:, 0]
    for row, forecast in zip(members, forecasts, strict=True):
        mended = [bool(row[p] and row[t] and p != t) for p, t in zip(predicted, labels, strict=True)]
        assert forecast.fixable == pytest.approx(np.mean(mended))
    mended = [p != t and any(row[p] and row[t] for row in members) for p, t in zip(predicted, labels, strict=True)]
    assert together == pytest.approx(np.mean(mended))
    assert (forecasts[0].classes, forecasts[0].natural_share, forecasts[0].examples_an_epoch) == (3, 3 / 9, 60)


def test_forecast_refuses_more_predictions_than_classes():
    predictions, labels = draw_predictions()
    with pytest.raises(ConfigError, match=r"ensemble\.top_n: 10 for 9 classes is not allowed; give 1 to 9"):
        forecast_groups(np.ones((2, 9), bool), predictions, labels, labels, top_n=10, group_share=0.5)


def test_names_of_groups():
    assert name_group([0, 2], ["A", "B", "À"]) == "«AÀ»"
    assert name_group([0, 1], ["cat", "dog", "x"]) == "cat, dog"
    assert name_group([0, 1, 2], ["A", "B", "À"], most=2) == "«AB…»"
