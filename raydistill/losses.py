"""The distillation loss. Source: Hinton, Vinyals, Dean 2015, section 2.

Comes in: logits, the teacher's log-probabilities (free of temperature), labels. Goes out: nats for each example;
callers reduce by a mean over examples. Classes are summed, never averaged: a mean would scale the soft term by 1/K.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax


def soften(log_probs: Tensor, temperature: float) -> Tensor:
    """Probabilities at a temperature: softmax(log q / temperature). log_probs: (B, K), -inf allowed. Returns (B, K)."""
    return softmax(log_probs / temperature, dim=-1)


def distillation_loss(
    logits: Tensor, target_log_probs: Tensor, labels: Tensor | None, *, temperature: float, label_weight: float
) -> Tensor:
    """Weighted sum of cross-entropies with soft targets and with labels.

    loss = (1 - label_weight) · temperature² · H(softmax(log q / temperature), softmax(z / temperature))
           + label_weight · H(label, softmax(z))

    logits: (B, K) raw z. target_log_probs: (B, K) log q of the teacher at temperature 1; no gradient flows into them.
    labels: (B,) class indices; None where label_weight is 0. temperature: > 0, finite. label_weight: 0 to 1.
    Returns (B,) nats. temperature² keeps the soft gradients' size when the temperature changes (section 2).
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: {temperature} is not allowed; give a finite number above 0")
    if not 0 <= label_weight <= 1:
        raise ValueError(f"label_weight: {label_weight} is not allowed; give a number from 0 to 1")
    if labels is None and label_weight > 0:
        raise ValueError(f"labels: missing, but label_weight is {label_weight}; give labels or label_weight=0")
    hard = cross_entropy(logits, labels, reduction="none") if labels is not None and label_weight > 0 else None
    if label_weight == 1 and hard is not None:
        return hard
    targets = soften(target_log_probs.detach(), temperature)
    soft = -(targets * log_softmax(logits / temperature, dim=-1)).sum(dim=-1) * temperature**2
    return soft if hard is None else (1 - label_weight) * soft + label_weight * hard
