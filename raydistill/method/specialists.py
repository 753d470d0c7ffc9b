"""Specialists: enriched sampling, the shift that undoes it, and the probabilities over a group's classes and a dustbin.

Comes in: a generalist's logits (B, K) and a group. Goes out: log-probabilities (B, G + 1), the dustbin last.

Merged dustbin: the specialist keeps the generalist's whole output layer, and its dustbin logit is the logsumexp of all
classes outside the group, so that it starts as exactly the generalist and needs no new unit. Single dustbin: one unit
stands for all other classes (Hinton, Vinyals, Dean 2015, section 5.2); the output of one class outside is used for it.
Soft dustbin: merged, but examples of other classes are learned from the generalist's soft targets (section 6.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softmax

from raydistill.data.arrays import Examples
from raydistill.kernels import losses as kernels
from raydistill.kernels.launch import has_kernels
from raydistill.networks.models import find_output_layer
from raydistill.training.balance import Balance, sample_by_weight
from raydistill.training.batches import Batch, Sampler
from raydistill.training.losses import Loss, WithGradient, differentiate, log_sum, run_kernel
from raydistill.training.orders import Rows
from raydistill.training.scoring import Score, Validate, score_blocks

Dustbin = Literal["merged", "single", "soft"]


@dataclass(frozen=True)
class Group:
    """The classes of one specialist. members: (G,) ascending class numbers; classes: K; dustbin: see the module.

    unseen: classes outside the group that came after the specialist was trained; it says nothing of them.
    """

    members: Tensor
    classes: int
    dustbin: Dustbin = "merged"
    unseen: tuple[int, ...] = ()

    @property
    def inside(self) -> Tensor:
        """Boolean (K,): which classes are the group's."""
        inside = torch.zeros(self.classes, dtype=torch.bool)
        inside[self.members] = True
        return inside

    @property
    def rest(self) -> Tensor:
        """Classes outside the group, (K - G,), ascending."""
        return torch.nonzero(~self.inside).squeeze(1)

    @property
    def place_of_class(self) -> Tensor:
        """(K,): the column of each class in the specialist's output; G, the dustbin's, for classes outside."""
        place = torch.full((self.classes,), len(self.members), dtype=torch.int64)
        place[self.members] = torch.arange(len(self.members))
        return place


def reduce_logits(logits: Tensor, group: Group) -> Tensor:
    """Logits (B, K) of a specialist's network as (B, G + 1): the group's classes, then the dustbin."""
    rest = group.rest.to(logits.device)
    if group.dustbin == "single":
        dustbin = logits[:, rest[:1]]
    else:
        dustbin = logits.index_select(1, rest).logsumexp(dim=1, keepdim=True)
    return torch.cat([logits.index_select(1, group.members.to(logits.device)), dustbin], dim=1)


def specialist_log_probs(logits: Tensor, group: Group, generalist: Tensor | None = None) -> Tensor:
    """Log-probabilities (B, G + 1) at the natural share of classes: the prior shift serves training only.

    generalist: its log-probabilities (B, K), for a group with unseen classes. Such a specialist knows P(class | one of
    the seen classes); that an example is of an unseen one, U, is left to the generalist, by the law of total
    probability: P_m(j) = P_m(j | seen) (1 - P_g(U)), and the dustbin has P_g(U) beside its own share.
    """
    if not group.unseen:
        return log_softmax(reduce_logits(logits, group), dim=1)
    if generalist is None:
        raise ValueError("generalist: missing; a group with unseen classes needs its log-probabilities")
    unseen = torch.zeros(group.classes, dtype=torch.bool, device=logits.device)
    unseen[list(group.unseen)] = True
    own = log_softmax(reduce_logits(logits.masked_fill(unseen, -math.inf), group), dim=1)
    seen, rest = (generalist[:, mask].logsumexp(dim=1, keepdim=True) for mask in (~unseen, unseen))
    shared = own + seen
    return torch.cat([shared[:, :-1], torch.logaddexp(shared[:, -1:], rest)], dim=1) - torch.logaddexp(seen, rest)


def prior_shift(natural_share: float, group_share: float) -> float:
    """What to take off the dustbin's logit while training on enriched data, in nats.

    log of (odds of the group in training / odds of the group in nature): the exact Bayes correction, log((1 - π)/π) for
    half-and-half data. natural_share: π, 0 to 1 exclusive. group_share: the group's share while training.
    """
    return math.log(group_share / (1 - group_share)) - math.log(natural_share / (1 - natural_share))


def sample_enriched(group_rows: Tensor, rest_rows: Tensor, group_share: float) -> Sampler:
    """Each of the group's rows once, and rows of other classes, drawn afresh, up to 1 - group_share of the epoch.

    Where there are no rows of other classes, as a held-out split may lack rare ones, none are drawn.
    """
    others = count_others(len(group_rows), group_share) if len(rest_rows) else 0

    def sample(generator: torch.Generator) -> Tensor:
        drawn = rest_rows[torch.randint(max(1, len(rest_rows)), (others,), generator=generator)].long()
        rows = torch.cat([group_rows, drawn])
        return rows[torch.randperm(len(rows), generator=generator)]

    return sample


def sample_enriched_by_weight(
    group_rows: Tensor, rest_rows: Tensor, group_share: float, group_weights: Tensor, rest_weights: Tensor
) -> Sampler:
    """As `sample_enriched`, with as many rows of both parts, drawn in proportion to their weights, (N,) each."""
    own = sample_by_weight(group_rows, group_weights, len(group_rows))
    others, edges = count_others(len(group_rows), group_share), rest_weights.cumsum(0)

    def sample(generator: torch.Generator) -> Tensor:
        places = torch.rand(others, generator=generator, dtype=torch.float64) * edges[-1]
        drawn = rest_rows[torch.searchsorted(edges, places, right=True).clamp_max(len(rest_rows) - 1)].long()
        rows = torch.cat([own(generator)[:], drawn])
        return rows[torch.randperm(len(rows), generator=generator)]

    return sample


def count_others(own: int, group_share: float) -> int:
    """Rows of other classes in an epoch with so many of the group's own."""
    return max(1, round(own * (1 - group_share) / group_share))


def balance_group(balance: Balance | None, group: Group, *, sampled: bool) -> Tensor | None:
    """Nats (K,) that a balance adds to a specialist's logits; to a single dustbin, for all classes that it stands for.

    sampled: for rows that are sampled for training, not held-out ones.
    """
    if balance is None:
        return None
    offset = balance.offset(sampled=sampled)
    if group.dustbin == "single":
        offset[group.rest[0]] = balance.offset_together(group.rest, sampled=sampled)
    return offset


def enriched_loss(group: Group, shift: float, class_offset: Tensor | None = None) -> Loss:
    """Cross-entropy over the group's classes and the dustbin, whose logit is lowered by `shift` nats, (B,) nats.

    class_offset: (K,) nats to add to the classes' logits beside, see `balance_group`.

    Lowering the dustbin is lowering each of its classes. With P = softmax(logits + offset) and R its sum over the
    classes outside: the loss of an example of class y in the group is -log P_y, its gradient P - onehot(y); that of an
    example outside is -log R, its gradient P_j in the group and P_j - P_j / R = -P_j (1 - R) / R outside. It is exact
    up to 87 nats (float32), where R underflows. Measured: autograd's own way costs more than the network.
    """
    inside = group.inside
    offset = lower_outside(group, shift, class_offset)
    if group.dustbin == "single":
        offset[group.rest[1:]] = -math.inf

    @cache
    def tables(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return offset.to(device, dtype), (~inside).to(device, dtype), inside.to(device), group.members.to(device)

    def loss(logits: Tensor, batch: Batch) -> WithGradient:
        lowered, outside, known, members = tables(logits.device, logits.dtype)
        if has_kernels(logits):
            return run_kernel(kernels.enriched_rows, logits, batch.labels, lowered, outside)
        column, hit = batch.labels.unsqueeze(1), known[batch.labels]
        shifted = logits.detach() + lowered
        probs = softmax(shifted, dim=1)
        rest = (probs @ outside).clamp_min(torch.finfo(probs.dtype).tiny)
        value = torch.where(hit, log_sum(shifted, probs) - shifted.gather(1, column).squeeze(1), -rest.log())
        own = probs.index_select(1, members)
        factor = torch.where(hit, 1.0, -own.sum(dim=1) / rest)
        gradient = probs.mul_(factor.unsqueeze(1)).index_copy_(1, members, own)
        gradient.scatter_add_(1, column, -hit.to(gradient.dtype).unsqueeze(1))
        return value, gradient.div_(len(logits))

    return loss


def lower_outside(group: Group, shift: float, class_offset: Tensor | None) -> Tensor:
    """Nats (K,) to add to the logits: `class_offset`, less `shift` for all classes outside the group."""
    lowered = torch.where(group.inside, 0.0, -shift)
    return lowered if class_offset is None else lowered + class_offset


def soft_enriched_loss(group: Group, shift: float, generalist: nn.Module, class_offset: Tensor | None = None) -> Loss:
    """Cross-entropy over all K classes: with the label in the group, else with the generalist's soft targets outside.

    Source: Hinton, Vinyals, Dean 2015, section 6.1, which only sketches it. The targets have no mass in the group: the
    label says that the example is outside, and a specialist that were taught the generalist's doubts of it would favour
    its group (measured: 0.12 and 0.23 instead of 0.05 and 0.10). All classes outside are lowered by `shift` nats. The
    generalist, on the device of the batches, answers their very inputs in evaluation mode, and is not trained. Its
    answers, too, are for the shares of classes in training where `class_offset` says so.
    """
    inside = group.inside
    offset = lower_outside(group, shift, class_offset)
    generalist.eval()

    def loss(logits: Tensor, batch: Batch) -> WithGradient:
        known, lowered = inside.to(logits.device), offset.to(logits.device)
        with torch.no_grad():
            answers = generalist(batch.inputs)
            if class_offset is not None:
                answers = answers + class_offset.to(answers.device)
            targets = softmax(answers.masked_fill(known, -math.inf), dim=1)

        def values(leaf: Tensor) -> Tensor:
            log_probs = log_softmax(leaf + lowered, dim=1)
            own = log_probs.gather(1, batch.labels.unsqueeze(1)).squeeze(1)
            return -torch.where(known[batch.labels], own, (targets * log_probs).sum(dim=1))

        return differentiate(values, logits)

    return loss


def score_enriched(
    examples: Examples, rows: Rows, group: Group, shift: float, class_offset: Tensor | None = None
) -> Validate:
    """Validation on enriched rows, shared by workers: loss and accuracy over the group's classes and the dustbin."""
    place, loss = group.place_of_class, enriched_loss(group, shift, class_offset)

    def judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses = loss(logits, Batch(labels, logits, labels))[0]
        return losses, reduce_logits(logits, group).argmax(dim=1) == place[labels]

    def validate(model: nn.Module) -> Score:
        return score_blocks(model, examples, rows, judge)

    return validate


def prepare_dustbin(model: nn.Module, group: Group) -> None:
    """For a single dustbin, start its unit as the average class outside, raised by the log of their number."""
    layer = find_output_layer(model, group.classes)
    if group.dustbin != "single" or layer is None:
        return
    with torch.no_grad():
        layer.weight[group.rest[0]] = layer.weight[group.rest].mean(dim=0)
        if layer.bias is not None:
            layer.bias[group.rest[0]] = layer.bias[group.rest].mean() + math.log(len(group.rest))
