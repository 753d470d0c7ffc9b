"""The distillation loss. Source: Hinton, Vinyals, Dean 2015, section 2.

Comes in: logits, the teacher's log-probabilities (free of temperature), labels. Goes out: nats for each example;
callers reduce by a mean over examples. Classes are summed, never averaged: a mean would scale the soft term by 1/K.

`distillation_loss` is for any loop. The package's own loop takes a loss with its gradient, worked out by hand in one
go: measured, autograd's own way costs 0.1 ms a batch for the calls alone, and reads the logits several times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, softmax

from raydistill.kernels import losses as kernels
from raydistill.kernels.launch import has_kernels
from raydistill.training.batches import Batch


def soften(log_probs: Tensor, temperature: float) -> Tensor:
    """Probabilities at a temperature: softmax(log q / temperature). log_probs: (B, K), -inf allowed. Returns (B, K)."""
    return softmax(log_probs / temperature, dim=-1)


def distillation_loss(
    logits: Tensor, target_log_probs: Tensor, labels: Tensor | None, *, temperature: float, label_weight: float
) -> Tensor:
    """Weighted sum of cross-entropies with soft targets and with labels.

    loss = (1 - w) · temperature² · H(softmax(log q / temperature), softmax(z / temperature)) + w · H(label, softmax(z))

    where w is label_weight for an example with a label, and 0 for one without: it learns from the teacher alone.

    logits: (B, K) raw z. target_log_probs: (B, K) log q of the teacher at temperature 1; no gradient flows into them.
    labels: (B,) class indices, -1 for none; None where label_weight is 0. temperature: > 0, finite. label_weight: 0 to
    1. Returns (B,) nats. temperature² keeps the soft gradients' size when the temperature changes (section 2).
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: {temperature} is not allowed; give a finite number above 0")
    if not 0 <= label_weight <= 1:
        raise ValueError(f"label_weight: {label_weight} is not allowed; give a number from 0 to 1")
    if labels is None and label_weight > 0:
        raise ValueError(f"labels: missing, but label_weight is {label_weight}; give labels or label_weight=0")
    if label_weight == 1 and labels is not None and bool((labels >= 0).all()):
        return cross_entropy(logits, labels, reduction="none")
    with torch.no_grad():
        targets = soften(target_log_probs, temperature)
        loss, gradient = distil(logits, targets, labels, temperature, label_weight)
    return _KnownGradient.apply(logits, loss, gradient.mul_(len(loss)))  # type: ignore[no-any-return, no-untyped-call]


WithGradient = tuple[Tensor, Tensor]
"""Nats for each example, (B,), and the gradient of their mean by the logits, (B, K)."""
Loss = Callable[[Tensor, Batch], WithGradient]
"""(logits (B, K), batch) -> the same for a batch's examples."""


def label_loss(logits: Tensor, labels: Tensor) -> WithGradient:
    """Cross-entropy of logits (B, K), which need no gradient themselves, with labels (B,)."""
    if has_kernels(logits):
        return run_kernel(kernels.label_rows, logits, labels)
    return differentiate(lambda leaf: cross_entropy(leaf, labels, reduction="none"), logits)


def distil(
    logits: Tensor, targets: Tensor, labels: Tensor | None, temperature: float, label_weight: float
) -> WithGradient:
    """`distillation_loss` with targets (B, K) that are softened already; its settings are not checked again.

    With p the targets and s = z / T:  H(p, softmax(s)) = logsumexp(s) - Σ p s,  and its gradient by z is
    (softmax(s) - p) / T; so with the factor T² the gradient is T (softmax(s) - p). Where a label is -1, label_weight
    counts as 0.
    """
    if labels is None:
        labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)  # of no weight
    if has_kernels(logits, targets):
        return run_kernel(kernels.distil_rows, logits, targets, labels, temperature, label_weight)
    return _distil_by_operations(logits.detach(), targets, labels, temperature, label_weight)


def _distil_by_operations(
    logits: Tensor, targets: Tensor, labels: Tensor, temperature: float, label_weight: float
) -> WithGradient:
    label_weights = label_weight * (labels >= 0).to(logits.dtype)  # (B,)
    soft_weights, targets = (1 - label_weights) * temperature, targets.to(logits.dtype)
    scaled = logits / temperature if temperature != 1 else logits
    probs = softmax(scaled, dim=1)
    common = torch.bmm(targets.unsqueeze(1), scaled.unsqueeze(2)).flatten()
    loss = (log_sum(scaled, probs) - common).mul_(soft_weights * temperature)
    gradient = (probs - targets).mul_((soft_weights / len(logits)).unsqueeze(1))
    if label_weight > 0:
        column, shares = labels.clamp_min(0).unsqueeze(1), (label_weights / len(logits)).unsqueeze(1)
        if temperature != 1:
            probs = softmax(logits, dim=1)
        loss += label_weights * (log_sum(logits, probs) - logits.gather(1, column).squeeze(1))
        gradient.addcmul_(probs, shares).scatter_add_(1, column, -shares)
    return loss, gradient


def log_sum(logits: Tensor, probs: Tensor) -> Tensor:
    """Logsumexp of each row, (B,), from its softmax: the largest logit less the log of its probability."""
    return logits.amax(dim=1) - probs.amax(dim=1).log()


def run_kernel(kernel: Callable[..., None], logits: Tensor, *arguments: Any) -> WithGradient:
    """What a kernel of `kernels.losses` makes of logits (B, K)."""
    loss, gradient = torch.empty(len(logits)), torch.empty(logits.shape)
    kernel(logits, *arguments, loss, gradient)
    return loss, gradient


def differentiate(loss: Callable[[Tensor], Tensor], logits: Tensor) -> WithGradient:
    """A loss (B,) of logits (B, K), and the gradient of its mean, by autograd."""
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        values = loss(leaf)
        gradient = torch.autograd.grad(values.mean(), leaf)[0]
    return values.detach(), gradient


class _KnownGradient(torch.autograd.Function):
    """The loss (B,) as a function of the logits (B, K), whose gradient (B, K) is known."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.view_as(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * weights.unsqueeze(1), None, None


def batch_label_loss(logits: Tensor, batch: Batch) -> WithGradient:
    """Cross-entropy with the batch's labels."""
    return label_loss(logits, batch.labels)
