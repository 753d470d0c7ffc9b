"""Losses and their gradients by the logits, a row at a time while it is in the cache.

Every kernel fills loss (B,), nats, and the gradient (B, K) of their mean, from logits (B, K) float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from raydistill.kernels.launch import compile_kernel, compile_part
from raydistill.kernels.numbers import exp32, f32, find_largest, widen_half

PARTS = 16  # of a batch, each with memory of its own, shared out to threads


@compile_part
def _exponentiate(values: Any, scale: Any) -> tuple[Any, Any]:
    """Replace values by exp(scale · (values - largest)). Returns the largest one, and the sum."""
    largest, total = find_largest(values), f32(0.0)
    for j in range(len(values)):
        values[j] = exp32((values[j] - largest) * scale)
        total += values[j]
    return largest, total


@compile_kernel
def label_rows(logits: Any, labels: Any, loss: Any, gradient: Any) -> None:
    """Cross-entropy with labels (B,): -log P_y; its gradient P - onehot(y)."""
    for i in prange(len(logits)):
        row, label = gradient[i], labels[i]
        for j in range(len(row)):  # measured: three times as fast as row[:] = logits[i]
            row[j] = logits[i, j]
        largest, total = _exponentiate(row, f32(1.0))
        loss[i] = np.log(total) + largest - logits[i, label]
        share = f32(1.0 / len(logits))
        factor = share / total
        for j in range(len(row)):
            row[j] *= factor
        row[label] -= share


@compile_kernel
def enriched_rows(logits: Any, labels: Any, offset: Any, outside: Any, loss: Any, gradient: Any) -> None:
    """What `specialists.enriched_loss` says. offset, outside: (K,) nats added to the logits; 1 outside the group."""
    for i in prange(len(logits)):
        row, label = gradient[i], labels[i]
        for j in range(len(row)):
            row[j] = logits[i, j] + offset[j]
        own = row[label]
        largest, total = _exponentiate(row, f32(1.0))
        rest = f32(0.0)
        for j in range(len(row)):
            rest += row[j] * outside[j]
        share = f32(1.0 / len(logits))
        of_all, of_rest = share / total, share / rest
        if outside[label] == 0:
            loss[i] = np.log(total) + largest - own
            for j in range(len(row)):
                row[j] *= of_all
            row[label] -= share
        else:
            loss[i] = np.log(total) - np.log(rest)
            for j in range(len(row)):
                row[j] *= of_all - outside[j] * of_rest


@compile_part
def _weigh_label(label: Any, label_weight: Any) -> Any:
    """Weight of an example's label: none where there is no label."""
    return f32(label_weight) if label >= 0 else f32(0.0)


@compile_part
def _distil_row(
    logits: Any,
    targets: Any,
    unit: Any,
    label: Any,
    temperature: Any,
    label_weight: Any,
    share: Any,
    spare: Any,
    row: Any,
) -> Any:
    """Fill the row of the gradient, and return the loss, of `losses.distil` for one example.

    targets: (K,), to be multiplied by unit. share: 1 / B. spare: (K,) for the probabilities at temperature 1, where
    they are others than those at `temperature`.
    """
    largest, inverse = find_largest(logits), f32(1.0) / temperature
    total, natural_total, common = f32(0.0), f32(0.0), f32(0.0)
    if temperature == f32(1.0) or label_weight == f32(0.0):
        for j in range(len(row)):
            row[j] = exp32((logits[j] - largest) * inverse)
            total += row[j]
            common += targets[j] * (logits[j] - largest)
        natural_total = total
    else:
        for j in range(len(row)):
            row[j] = exp32((logits[j] - largest) * inverse)
            spare[j] = exp32(logits[j] - largest)
            total += row[j]
            natural_total += spare[j]
            common += targets[j] * (logits[j] - largest)
    soft_weight = (f32(1.0) - label_weight) * temperature
    soft_share, label_share = soft_weight * share, label_weight * share
    target_share = soft_share * unit
    soft_factor, label_factor = soft_share / total, label_share / natural_total
    value = soft_weight * (np.log(total) * temperature - common * unit)
    if temperature == f32(1.0) or label_weight == f32(0.0):
        soft_factor += label_factor
        for j in range(len(row)):
            row[j] = row[j] * soft_factor - target_share * targets[j]
    else:
        for j in range(len(row)):
            row[j] = row[j] * soft_factor + spare[j] * label_factor - target_share * targets[j]
    if label_weight == f32(0.0):
        return value
    row[label] -= label_share
    return value + label_weight * (np.log(natural_total) + largest - logits[label])


@compile_kernel
def distil_rows(
    logits: Any, targets: Any, labels: Any, temperature: float, label_weight: float, loss: Any, gradient: Any
) -> None:
    """What `losses.distil` says, with softened targets (B, K); labels (B,), -1 where there is none."""
    for part in prange(PARTS):
        spare = np.empty(logits.shape[1], np.float32)
        for i in range(part * len(logits) // PARTS, (part + 1) * len(logits) // PARTS):
            loss[i] = _distil_row(
                logits[i],
                targets[i],
                f32(1.0),
                labels[i],
                f32(temperature),
                _weigh_label(labels[i], label_weight),
                f32(1.0 / len(logits)),
                spare,
                gradient[i],
            )


@compile_kernel
def distil_dense_rows(
    logits: Any,
    values: Any,
    positions: Any,
    labels: Any,
    temperature: float,
    label_weight: float,
    loss: Any,
    gradient: Any,
) -> None:
    """The same with stored targets of all classes. values: (N, K) halves; positions: (B,) rows of them."""
    for part in prange(PARTS):
        spare, targets = np.empty(logits.shape[1], np.float32), np.empty(logits.shape[1], np.float32)
        for i in range(part * len(logits) // PARTS, (part + 1) * len(logits) // PARTS):
            stored = values[positions[i]]
            for j in range(len(targets)):
                targets[j] = widen_half(stored[j])
            _, total = _exponentiate(targets, f32(1.0 / temperature))
            loss[i] = _distil_row(
                logits[i],
                targets,
                f32(1.0) / total,
                labels[i],
                f32(temperature),
                _weigh_label(labels[i], label_weight),
                f32(1.0 / len(logits)),
                spare,
                gradient[i],
            )


@compile_kernel
def distil_sparse_rows(
    logits: Any,
    values: Any,
    class_ids: Any,
    rest: Any,
    positions: Any,
    labels: Any,
    temperature: float,
    label_weight: float,
    loss: Any,
    gradient: Any,
) -> None:
    """The same with stored targets of k classes, class_ids (N, k); rest: (N,) log of the mass of all others."""
    for part in prange(PARTS):
        spare, targets = np.empty(logits.shape[1], np.float32), np.empty(logits.shape[1], np.float32)
        stored = np.empty(values.shape[1] + 1, np.float32)
        for i in range(part * len(logits) // PARTS, (part + 1) * len(logits) // PARTS):
            place, others = positions[i], len(targets) - values.shape[1]
            for k in range(values.shape[1]):
                stored[k] = widen_half(values[place, k])
            stored[-1] = rest[place] - f32(np.log(others))
            _, total = _exponentiate(stored, f32(1.0 / temperature))
            for j in range(len(targets)):
                targets[j] = stored[-1]
            for k in range(values.shape[1]):
                targets[class_ids[place, k]] = stored[k]
            loss[i] = _distil_row(
                logits[i],
                targets,
                f32(1.0) / (total + (others - 1) * stored[-1]),
                labels[i],
                f32(temperature),
                _weigh_label(labels[i], label_weight),
                f32(1.0 / len(logits)),
                spare,
                gradient[i],
            )
