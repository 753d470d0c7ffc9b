"""Spectral clustering of many classes: the leading eigenvectors of a sparse affinity, and a group for each class.

Comes in: an affinity (K, K), sparse. Goes out: group numbers (K,). Nothing dense is larger than (K, groups): Lanczos'
method (ARPACK) asks for products of the matrix with vectors only.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr, svd
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh

from raydistill.storage.files import Array, Sparse

FAINT = 1e-6  # of the mean affinity


def cluster_spectral(affinity: Sparse | Array, groups: int, *, seed: int) -> Array:
    """Partition classes by normalised spectral clustering. affinity: (K, K), groups < K. Returns group numbers (K,).

    Source: Ng, Jordan, Weiss 2001; assignment by pivoted QR: Damle, Minden, Ying 2019. A faint affinity of every class
    with every other keeps the graph connected, which the method requires. The groups are those of scikit-learn's
    SpectralClustering, which would make that affinity a dense matrix.
    """
    affinity = csr_array(affinity)
    classes = affinity.shape[0]
    faint = FAINT * max(affinity.sum() / (classes * (classes - 1)), 1e-12)
    scale = 1 / np.sqrt(affinity.sum(axis=1) + faint * (classes - 1))
    return assign_groups(scale[:, None] * find_eigenvectors(affinity, faint, scale, groups, seed))


def find_eigenvectors(affinity: Sparse, faint: float, scale: Array, count: int, seed: int) -> Array:
    """Eigenvectors of the largest eigenvalues of D^-1/2 (A + f (1 1ᵀ - I)) D^-1/2, to machine precision.

    affinity: A, sparse (K, K); faint: f; scale: the diagonal of D^-1/2, (K,). Returns (K, count).
    """

    def multiply(vector: Array) -> Array:
        scaled = scale * vector.ravel()
        return scale * (affinity @ scaled + faint * (scaled.sum() - scaled))  # type: ignore[no-any-return]

    matrix = LinearOperator(affinity.shape, matvec=multiply, dtype=np.float64)
    random = np.random.default_rng(seed)
    start = random.uniform(-1, 1, len(scale))
    _, vectors = eigsh(matrix, k=count, which="LA", v0=start, rng=random)
    return vectors  # type: ignore[no-any-return]


def assign_groups(vectors: Array) -> Array:
    """Group numbers (K,) from an embedding (K, groups), whatever its rotation, without a seed.

    Source: Damle, Minden, Ying 2019: one class of each group by pivoted QR, and the rotation nearest to these as axes.
    """
    count = vectors.shape[1]
    _, pivots = qr(vectors.T, pivoting=True, mode="r")
    left, _, right = svd(vectors[pivots[:count]].T)
    return np.abs(vectors @ (left @ right)).argmax(axis=1)  # type: ignore[no-any-return]
