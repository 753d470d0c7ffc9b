"""Teachers for the cache, drawn at random: what is needed where no data file is at hand.

The hidden layer of an image is a ReLU of random directions, and the output layer has each class's centre there, as if
trained on Gaussian classes. Classes come in families, and the noise is such that 80 % of the images are recognised.
Specialists differ from the generalist by a nat or so in their classes, as trained ones do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from raydistill.method.ensemble import choose_active, solve_ensemble
from raydistill.method.specialists import Group, specialist_log_probs
from raydistill.method.teacher import average_log_probs

UNITS = 192
CALIBRATED = 256  # images
OTHERNESS = 0.1  # share of another network in the specialists' logits


@dataclass(frozen=True)
class Answers:
    """Log q of two teachers, (n, K) each, for the same images; told: what they are, and how many are right."""

    teachers: dict[str, Tensor]
    told: str


def draw_answers(classes: int, images: int, seed: int = 0) -> Answers:
    """Two random networks; specialists of groups of families are a mixture of both."""
    generator = torch.Generator().manual_seed(seed)
    families = round(math.sqrt(classes))
    family = torch.arange(classes) % families
    centres = torch.randn(families, 64, generator=generator)[family] + torch.randn(classes, 64, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    noise = torch.randn(images, 64, generator=generator)
    maps = [torch.randn(64, UNITS, generator=generator) / 8 for _ in range(2)]

    low, high = 0.0, 4.0
    for _ in range(6):
        size = (low + high) / 2
        few = _classify(centres, (centres[labels] + size * noise)[:CALIBRATED], maps[0])
        right = float((few.argmax(dim=1) == labels[:CALIBRATED]).float().mean())
        low, high = (size, high) if right > 0.8 else (low, size)
    seen = centres[labels] + low * noise
    first, second = (_calibrate(_classify(centres, seen, weights), labels) for weights in maps)
    count = round(0.7 * families)
    window = (family[None, :] * count // families - torch.arange(count)[:, None]) % count
    members = (window == 0) | ((window == 1) & (torch.rand(count, classes, generator=generator) < 0.5))
    active = choose_active(log_softmax(first, dim=1), members)
    mixed = [((1 - OTHERNESS) * first + OTHERNESS * second)[rows] for rows in active.t()]
    asked = [ask_group(logits, group) for logits, group in zip(mixed, members, strict=True)]
    teachers = combine([first, second], members, active, asked)
    return Answers(teachers, f"drawn networks of {UNITS} units; {tell(teachers, labels)}")


def _classify(centres: Tensor, seen: Tensor, weights: Tensor) -> Tensor:
    """Logits (n, K) of the nearest centre among the hidden features."""
    features, targets = torch.relu(seen @ weights), torch.relu(centres @ weights)
    return features @ targets.t() - targets.square().sum(dim=1) / 2


def _calibrate(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits divided by the one of a few numbers with which the labels are the most probable."""
    few = logits[:CALIBRATED]
    widths = [0.5 * 1.4**power for power in range(12)]
    return logits / min(widths, key=lambda width: float(cross_entropy(few / width, labels[:CALIBRATED])))


def ask_group(logits: Tensor, group: Tensor) -> Tensor:
    """What a specialist says whose network gives the logits (n, K). group: (K,) bool. Returns (n, G + 1)."""
    return specialist_log_probs(logits, Group(group.nonzero().squeeze(1), len(group)))


def combine(logits: list[Tensor], members: Tensor, active: Tensor, asked: list[Tensor]) -> dict[str, Tensor]:
    """Two teachers' log q of two networks' logits, the first of which has specialists."""
    generalist, other = (log_softmax(values, dim=1) for values in logits)
    return {
        "equation 5": solve_ensemble(generalist, members, active, asked).log_probs,
        "two seeds": average_log_probs(torch.stack([generalist, other]), "arithmetic"),
    }


def tell(teachers: dict[str, Tensor], labels: Tensor) -> str:
    """How many images each recognises."""
    shares = (
        f"{float((q.argmax(dim=1) == labels).float().mean()):.0%} right by {name}" for name, q in teachers.items()
    )
    return ", ".join(shares)
