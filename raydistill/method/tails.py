"""The tail of the soft targets: log q of the classes that are not stored, as a few numbers for each image.

Comes in: log-probabilities (n, K) of a sample of images. Goes out: a `TailBasis`, which says that
log q of any image is about
    mean[j] + Σ_r coefficient_r · directions[r, j], up to a constant of the image.
A network's logits are an affine function of its last hidden layer, and the prices of equation 5 move whole patterns of
classes, so that a teacher of K classes has hardly more directions than that layer has units. Those of the principal
components leave the least (Eckart, Young 1936); they are found by Halko, Martinsson, Tropp 2011, arXiv 0909.4061.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from raydistill.storage.files import Array

LOWEST = -200.0  # nats; lower log-probabilities count as it: they weigh nothing, but would bend all directions
CLOSE = 0.1  # nats, root mean square over a sample; no more directions than that takes. Measured with 14,825 classes:
# 135 of 192, which lose 1e-4 nats at T = 5
CHOICE_TEMPERATURE = (
    3.0  # measured: 2 loses up to a tenth less at T = 1 and more at 2 and 5; 5 loses half more at T = 1
)
PLAIN = 0.01  # nats; where the tail errs less than this, the most probable classes are stored
OVERSAMPLING, POWER_ITERATIONS = 16, 3  # of the randomised method


@dataclass(frozen=True)
class TailBasis:
    """What all images of a teacher share. mean: (K,), directions: (r, K), orthonormal; both exact in float16."""

    mean: Tensor
    directions: Tensor

    @classmethod
    def unpack(cls, packed: Tensor) -> TailBasis:
        """From (1 + r, K), as `pack` made it."""
        return cls(packed[0].float(), packed[1:].float())

    def pack(self) -> Array:
        """Both as (1 + r, K) float16, the mean first."""
        return torch.cat([self.mean.unsqueeze(0), self.directions]).half().numpy()

    @property
    def rank(self) -> int:
        """r, the coefficients of an image."""
        return len(self.directions)

    def to(self, device: torch.device) -> TailBasis:
        """The same on a device."""
        return TailBasis(self.mean.to(device), self.directions.to(device))

    def project(self, log_probs: Tensor) -> Tensor:
        """Coefficients (n, r) float16 of log-probabilities (n, K); least squares, free of each image's constant."""
        centre = self.directions @ self.mean
        return torch.addmm(-centre, log_probs.clamp(min=LOWEST), self.directions.t()).clamp(-6e4, 6e4).half()

    def predict(self, coefficients: Tensor, scale: float = 1.0) -> Tensor:
        """What coefficients (n, r) say of log q, times `scale`, up to a constant of each image: (n, K) float32."""
        return torch.addmm(self.mean, coefficients.float(), self.directions, beta=scale, alpha=scale)


@dataclass(frozen=True)
class Tails:
    """Log q of N images' classes that are not stored: basis.predict(coefficients) + offset.

    coefficients: (N, r) float16. offsets: (N,) float32, with which they have the mass of the rest.
    """

    basis: TailBasis
    coefficients: Tensor
    offsets: Tensor
    _copies: dict[torch.device, TailBasis] = field(default_factory=dict, init=False, repr=False, compare=False)

    def predict(self, positions: Tensor, scale: float, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of the given images, scale · log q of every class, short of the offset, (B, K); and the offset, (B, 1)."""
        if device not in self._copies:
            self._copies[device] = self.basis.to(device)
        predicted = self._copies[device].predict(self.coefficients[positions].to(device), scale)
        return predicted, self.offsets[positions].to(device).unsqueeze(1)


def fit_tail(log_probs: Tensor, rank: int) -> TailBasis:
    """The principal components of a sample, at most `rank`, and no more than come CLOSE to it.

    log_probs: (n, K); n should be several times the rank. Each image's mean over classes is taken off, and then each
    class's over the sample. Raises ValueError for a rank below 1 or not below K, and for an empty sample.
    """
    if not 1 <= rank < log_probs.shape[1]:
        raise ValueError(
            f"rank: {rank} is not allowed; give 1 to {log_probs.shape[1] - 1}, below the number of classes"
        )
    if len(log_probs) == 0:
        raise ValueError("log_probs: no rows; give a sample of several times the rank")
    rows = log_probs.clamp(min=LOWEST).float()
    rows = rows.sub_(rows.mean(dim=1, keepdim=True))
    mean = rows.mean(dim=0)
    rows.sub_(mean)
    wanted = min(rank + OVERSAMPLING, *rows.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, sizes, directions = torch.svd_lowrank(rows, wanted, niter=POWER_ITERATIONS)
    kept = min(rank, count_components(sizes, float(rows.square().sum()), rows.numel()))
    return TailBasis(_round(mean), _round(directions[:, :kept].t()))


def count_components(sizes: Tensor, total: float, numbers: int) -> int:
    """The fewest components that leave CLOSE nats or less, root mean square. sizes: (c,) singular values, falling.

    total: sum of the squares of all `numbers` of the sample. Returns 1 to c + 1; the last says that c are too few.
    """
    left = total - sizes.double().square().cumsum(dim=0)
    return max(1, 1 + int((left > CLOSE**2 * numbers).sum()))


def choose_classes(log_probs: Tensor, predicted: Tensor, count: int) -> Tensor:
    """The `count` classes of each image to store: those where the prediction costs the most. Returns (n, count) int64.

    log_probs, predicted: (n, K), the latter up to a constant of each image, for which the weighted mean error is
    taken. Cost: q^(1/T) |error| with T = CHOICE_TEMPERATURE, for divergences at temperatures from 1 to 5.
    """
    exact = log_probs.clamp(min=LOWEST)
    error, weight = exact - predicted, exact.div_(CHOICE_TEMPERATURE).exp_()
    centre = torch.linalg.vecdot(weight, error) / weight.sum(dim=1)
    return find_largest(error.sub_(centre.unsqueeze(1)).abs_().add_(PLAIN).mul_(weight), count)


def find_largest(values: Tensor, count: int) -> Tensor:
    """Columns of the `count` largest values of each row, in no order. values: (n, K) float32. Returns (n, count) int64.

    As `torch.topk`, but several times as fast for 200 of 15,000: the maxima of groups of columns bound the smallest
    value that counts from below, and hardly more than `count` values reach the bound. Raises ValueError for NaN.
    """
    n, classes = values.shape
    groups = classes // max(1, round(math.sqrt(classes / count)))
    best = values[:, : classes // groups * groups].view(n, -1, groups).amax(dim=1).numpy()
    bound = np.partition(best, groups - count, axis=1)[:, groups - count, None]
    reach = np.flatnonzero(values.numpy() >= bound)
    row, column = np.divmod(reach, classes)
    counts = np.bincount(row, minlength=n)
    if counts.min(initial=count) < count:
        raise ValueError("log_probs: some are NaN; check the teacher's weights and inputs")
    place = np.arange(len(reach)) - (counts.cumsum() - counts)[row]
    candidates = torch.full((n, int(counts.max(initial=count))), -math.inf)
    columns = torch.zeros(candidates.shape, dtype=torch.int64)
    candidates[row, place] = values.flatten()[reach]
    columns[row, place] = torch.from_numpy(column)
    return columns.gather(1, candidates.topk(count, dim=1, sorted=False).indices)


def _round(values: Tensor) -> Tensor:
    return values.half().float().contiguous()
