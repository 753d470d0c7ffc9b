"""Spectral clustering: scikit-learn's groups by sparse products, repeatable, for many classes in little memory."""

import tracemalloc

import numpy as np
import pytest
from scipy.sparse import block_array, coo_array, csr_array, eye_array
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from raydistill.method.confusion import build_affinity
from raydistill.method.groups import group_classes, measure_mass_covered
from raydistill.method.spectral import FAINT, assign_groups, cluster_spectral, find_eigenvectors


def draw_affinity(classes, groups, seed=0, pairs=40, inside=0.8):
    """Sparse affinity of planted groups: so many random pairs a class, a share of them inside; and the true groups."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(groups, size=classes)
    order = np.argsort(truth, kind="stable")
    sizes = np.bincount(truth, minlength=groups)
    starts = np.cumsum(sizes) - sizes
    rows = np.repeat(np.arange(classes), pairs)
    near = order[starts[truth[rows]] + (rng.random(len(rows)) * sizes[truth[rows]]).astype(int)]
    columns = np.where(rng.random(len(rows)) < inside, near, rng.integers(classes, size=len(rows)))
    confusion = coo_array((rng.exponential(size=len(rows)), (rows, columns)), shape=(classes, classes))
    return build_affinity(confusion), truth


def cluster_dense(affinity, groups):
    """The reference: scikit-learn on the dense matrix with the faint affinity of all pairs."""
    classes = len(affinity)
    faint = FAINT * max(affinity.sum() / (classes * (classes - 1)), 1e-12)
    model = SpectralClustering(groups, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    return model.fit_predict(affinity + faint * (1 - np.eye(classes)))


@pytest.mark.parametrize("inside", [0.9, 0.4, 0.1])  # clear groups, unclear ones, hardly any
@pytest.mark.parametrize(("classes", "groups"), [(12, 5), (60, 6), (523, 16)])
def test_groups_are_those_of_the_dense_solver(classes, groups, inside):
    affinity, _ = draw_affinity(classes, groups, inside=inside)
    assert (
        adjusted_rand_score(cluster_dense(affinity.toarray(), groups), cluster_spectral(affinity, groups, seed=3)) == 1
    )


def test_disconnected_groups_and_lonely_classes_are_those_of_the_dense_solver():
    parts = [draw_affinity(size, 2, seed=size)[0] for size in (20, 30, 41)]
    affinity = csr_array(
        block_array(
            [[*[None] * i, part, *[None] * (3 - i)] for i, part in enumerate(parts)]
            + [[None, None, None, csr_array((4, 4))]]
        )
    )
    found = cluster_spectral(affinity, 3, seed=0)
    assert adjusted_rand_score(cluster_dense(affinity.toarray(), 3), found) == 1
    assert adjusted_rand_score(np.repeat([0, 1, 2], (20, 30, 41)), found[:-4]) == 1


def test_eigenvectors_are_numpys():
    affinity, _ = draw_affinity(80, 4)
    faint, scale = 0.01, 1 / np.sqrt(affinity.sum(axis=1) + 0.01 * 79)
    vectors = find_eigenvectors(affinity, faint, scale, 5, seed=0)
    dense = (affinity.toarray() + faint * (1 - np.eye(80))) * np.outer(scale, scale)
    expected = np.linalg.eigh(dense)[1][:, -5:]
    np.testing.assert_allclose(np.abs(expected.T @ vectors), np.eye(5), atol=1e-9)


def test_assignment_does_not_hang_on_the_rotation():
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=50)
    vectors = np.eye(4)[truth] + 0.1 * rng.standard_normal((50, 4))
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert adjusted_rand_score(truth, assign_groups(vectors)) == 1
    assert adjusted_rand_score(truth, assign_groups(vectors @ rotation)) == 1


@pytest.mark.parametrize(
    "affinity", [draw_affinity(300, 9, inside=0.3)[0], csr_array((300, 300)), eye_array(300, k=150)]
)
def test_the_same_seed_gives_the_same_groups_bit_for_bit(affinity):
    """Also where nothing is confused, or classes only in pairs."""
    affinity = build_affinity(affinity)
    once, again = (cluster_spectral(affinity, 9, seed=5) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_dense_arrays_and_sparse_matrices_give_the_same_groups():
    affinity, _ = draw_affinity(90, 6, inside=0.6)
    members = group_classes(affinity, 6)
    np.testing.assert_array_equal(members, group_classes(affinity.toarray(), 6))
    assert measure_mass_covered(members, affinity) == measure_mass_covered(members, affinity.toarray())


def test_twenty_thousand_classes_need_no_dense_matrix():
    """A dense (K, K) would be 3.2 GB."""
    affinity, truth = draw_affinity(20_000, 8, pairs=8, inside=0.97)
    tracemalloc.start()
    members = group_classes(affinity, 8, overlap=0.1)
    measure_mass_covered(members, affinity)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert adjusted_rand_score(truth, members.argmax(axis=0)) > 0.8  # a class is in other groups, too, by growth
    assert peak < 100e6
