"""Which classes are confused: from logits and labels to confusions or covariance, and to an affinity.

Comes in: logits (N, K) of the generalist on the confuse split, block by block; labels (N,). Goes out: `Predictions`,
the most probable classes of each example, from which all else is measured; confusions and affinity (K, K), sparse, in
float64. Only the covariance is dense, which is why it is refused for very many classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from raydistill.errors import ConfigError
from raydistill.storage.files import Array, Sparse

if TYPE_CHECKING:
    from raydistill.settings.config import GroupingConfig

Affinity = Literal["soft", "hard", "covariance"]

# Probabilities that are kept of all examples together: every one of 30,000 examples with 523 classes, 111 of each of
# 150,000 examples. measured: 112 of 15,000 classes hold 99.4 % of the mass (generalist 82 % right), 1886 of 2965 hold
# 99.98 % (75 % right) and give the groups that all give (adjusted Rand index 0.9995; 943 give 0.975, 64 give 0.48)
MOST_PREDICTIONS = 2**24
LEAST_KEPT = 32
BLOCK = 2**20  # numbers of a block in float64; measured: 3.5 times as fast as blocks that leave the cache
MOST_DENSE_CLASSES = 8192  # a dense matrix (K, K) in float64 is 0.5 GB then, and a covariance needs four of them


@dataclass(frozen=True)
class Predictions:
    """The most probable classes of each example and their probabilities, the most probable first; the rest counts as 0.

    top: (N, W) class numbers in int32; probs: (N, W) in float64; classes: K.
    """

    top: Array
    probs: Array
    classes: int

    def __len__(self) -> int:
        return len(self.top)

    def __getitem__(self, rows: Array | slice) -> Predictions:
        """Those of some examples."""
        return Predictions(self.top[rows], self.probs[rows], self.classes)

    def to_sparse(self) -> Sparse:
        """The probabilities, (N, K)."""
        starts = np.arange(len(self) + 1, dtype=_index_type(self.top.size)) * self.top.shape[1]
        return csr_array((self.probs.ravel(), self.top.ravel(), starts), shape=(len(self), self.classes))


def count_kept(examples: int, classes: int) -> int:
    """How many classes of each example are kept: all, or as many as MOST_PREDICTIONS allow, but at least LEAST_KEPT."""
    return min(classes, max(MOST_PREDICTIONS // max(examples, 1), LEAST_KEPT))


def keep_probable(blocks: Iterable[Tensor], examples: int, kept: int | None = None) -> Predictions:
    """Keep the most probable classes of each example.

    blocks: logits (n, K) of all examples in order; examples: N, of all blocks, at least 1; kept: W, left out: see
    `count_kept`.
    """
    parts = (part for block in blocks for part in block.split(max(1, BLOCK // block.shape[1])))
    done, predictions = 0, None
    for logits in parts:
        if predictions is None:  # small results kept between large temporary ones would hold up all of their memory
            shape = examples, kept or count_kept(examples, logits.shape[1])
            predictions = Predictions(np.empty(shape, np.int32), np.empty(shape), logits.shape[1])
        rows = slice(done, done := done + len(logits))
        top = logits.topk(predictions.top.shape[1], dim=1).indices
        predictions.top[rows] = top.numpy()
        predictions.probs[rows] = logits.double().softmax(dim=1).gather(1, top).numpy()
    if predictions is None or done != examples:
        raise ValueError(f"{done} examples came, {examples} were announced")
    return predictions


def count_confusions(predictions: Predictions, labels: Tensor) -> Sparse:
    """Hard confusions: how often class i was taken for class j, entry (i, j). Returns sparse (K, K) counts."""
    return sum_confusions(Predictions(predictions.top[:, :1], np.ones((len(labels), 1)), predictions.classes), labels)


def sum_confusions(predictions: Predictions, labels: Tensor) -> Sparse:
    """Soft confusions: entry (i, j) sums the probabilities of class j over the examples of class i. Sparse (K, K)."""
    index = _index_type(len(labels))
    places = labels.numpy().astype(index), np.arange(len(labels), dtype=index)
    examples_of_class = csr_array((np.ones(len(labels)), places), shape=(predictions.classes, len(labels)))
    return examples_of_class @ predictions.to_sparse()


def measure_covariance(predictions: Predictions) -> Array:
    """Covariance of the predicted probabilities over examples, which needs no labels.

    Source: Hinton, Vinyals, Dean 2015, section 5.3 cluster its columns. Returns dense (K, K).
    """
    classes = predictions.classes
    mean, products = np.zeros(classes), np.zeros((classes, classes))
    for part in _split(predictions, max(1, 16 * BLOCK // classes)):
        probs = part.to_sparse().toarray()
        mean += probs.sum(axis=0)
        products += probs.T @ probs
    mean /= len(predictions)
    return products / len(predictions) - np.outer(mean, mean)


def measure_confusion(predictions: Predictions, labels: Tensor, affinity: Affinity) -> Sparse | Array:
    """The matrix that a choice of affinity starts from, (K, K)."""
    if affinity == "hard":
        return count_confusions(predictions, labels)
    if affinity == "soft":
        return sum_confusions(predictions, labels)
    return measure_covariance(predictions)


def build_affinity(confusion: Sparse | Array) -> Sparse:
    """Symmetric, non-negative, diagonal-free: (C + Cᵀ) / 2 without its diagonal; negative covariances count as 0.

    confusion: (K, K), sparse or dense. Returns sparse (K, K).
    """
    confusion = csr_array(confusion, dtype=np.float64)
    affinity = csr_array((confusion + confusion.T) / 2)
    rows = np.repeat(np.arange(affinity.shape[0]), np.diff(affinity.indptr))
    affinity.data[(affinity.indices == rows) | (affinity.data < 0)] = 0
    affinity.eliminate_zeros()
    return affinity


def check_dense(grouping: GroupingConfig, classes: int) -> None:
    """Raise ConfigError if a covariance of so many classes is asked for, which is dense."""
    for field, value, others in (("affinity", "covariance", "soft or hard"), ("method", "kmeans", "spectral")):
        if getattr(grouping, field) == value and classes > MOST_DENSE_CLASSES:
            raise ConfigError(
                f"grouping.{field}: {value!r} for {classes} classes is not allowed, because it needs a dense matrix"
                f" (K, K): at most {MOST_DENSE_CLASSES} classes; give {others}"
            )


def _split(predictions: Predictions, size: int) -> Iterator[Predictions]:
    for start in range(0, len(predictions), size):
        yield predictions[start : start + size]


def _index_type(most: int) -> type[np.signedinteger]:
    """Half the memory where it does."""
    return np.int32 if most < 2**31 else np.int64
