"""The cache of soft targets: log q of the teacher for every training row, stored once and free of temperature.

Comes in: log-probabilities (N, K). Goes out: `SoftTargets`, mapped from disk, which give log q for any rows; whoever
uses them applies a temperature. Dense: float16 for every class. Sparse: k classes, and the exact mass of the rest,
spread over it evenly or by a `Tail`, a few numbers for each image. Without a tail the most probable classes are stored;
with one, those about which it is wrong where that matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from raydistill.kernels import losses as kernels
from raydistill.kernels.launch import has_kernels
from raydistill.method.tails import TailBasis, Tails, choose_classes, find_largest
from raydistill.storage.files import Array, map_array, read_json, write_array, write_json, write_rows
from raydistill.storage.folders import list_files, remove
from raydistill.training.losses import WithGradient, distil, run_kernel, soften

FLOOR = -60000.0  # float16 ends at -65504; exp of it is 0 at any temperature in use
BLOCK_BYTES = 2**21  # of float32 log-probabilities in work at once, to stay in a processor's cache


@dataclass(frozen=True)
class SoftTargets:
    """Log-probabilities of a teacher for N examples.

    log_probs: (N, k) float16, for all classes (k = K) or for `class_ids` (N, k), in no order; rest: (N,) float32, log
    of the mass of all other classes together (sparse only). classes: K. tails: how that mass is spread; None: evenly.
    """

    log_probs: Tensor
    classes: int
    class_ids: Tensor | None = None
    rest: Tensor | None = None
    tails: Tails | None = None

    @classmethod
    def open(cls, folder: Path) -> SoftTargets:
        """Map a cache from its folder; all processes of a node share the pages."""

        def open_part(name: str) -> Tensor:
            return torch.from_numpy(map_array(folder / f"{name}.npy"))

        classes, log_probs = read_json(folder / "targets.json")["classes"], open_part("log_probs")
        if not (folder / "class_ids.npy").exists():
            return cls(log_probs, classes)
        ids, rest = open_part("class_ids"), open_part("rest")
        if not (folder / "tail.npy").exists():
            return cls(log_probs, classes, ids, rest)
        tails = Tails(TailBasis.unpack(open_part("tail")), open_part("coefficients"), open_part("offsets"))
        return cls(log_probs, classes, ids, rest, tails)

    @classmethod
    def from_arrays(cls, log_probs: Any, top_k: int | None = None) -> SoftTargets:
        """Keep a teacher's log-probabilities in memory. log_probs: (N, K), an array or tensor, normalised or not.

        top_k: the most probable classes that are stored of each example, and the mass of the rest, spread evenly;
        None: all. Raises ValueError for other shapes, NaN, or a top_k outside 1 to K.
        """
        exact = torch.as_tensor(log_probs).detach().cpu()
        if exact.dim() != 2 or not exact.is_floating_point() or bool(exact.isnan().any()):
            raise ValueError(f"log_probs: shape {tuple(exact.shape)}, {exact.dtype}; give floats (N, K) without NaN")
        classes = exact.shape[1]
        if top_k is not None and not 1 <= top_k <= classes:
            raise ValueError(f"top_k: {top_k} is not allowed; give 1 to {classes}, the number of classes")
        normalised = log_softmax(exact.float(), dim=1)
        if top_k is None or top_k == classes:
            return cls(torch.from_numpy(_compress(normalised)), classes)
        ids = find_largest(normalised, top_k)
        rest = normalised.scatter(1, ids, -math.inf).logsumexp(dim=1).clamp(min=FLOOR)
        return cls(torch.from_numpy(_compress(normalised.gather(1, ids))), classes, ids.int(), rest)

    def read(self, positions: Tensor, device: torch.device | None = None) -> Tensor:
        """Log q of the given examples, float32 (B, K), normalised."""
        values = self.log_probs[positions].to(device).float()
        if self.class_ids is None or self.rest is None:
            return log_softmax(values, dim=1)
        if self.tails is not None:
            return log_softmax(self._complete(self.tails, positions, values, 1.0), dim=1)
        return log_softmax(self._spread(positions, values, self._share_rest(positions, values)), dim=1)

    def soften(self, positions: Tensor, temperature: float, device: torch.device | None = None) -> Tensor:
        """Probabilities of the given examples at a temperature, softmax(log q / temperature): float32 (B, K).

        What `losses.soften` makes of `read`. Where the rest is spread evenly, only the classes that are stored are
        worked on: all others have one probability. With a tail, a product (B, r) x (r, K) comes before the softmax.
        """
        values = self.log_probs[positions].to(device).float()
        if self.class_ids is None or self.rest is None:
            return softmax(values.div_(temperature), dim=1)
        if self.tails is not None:
            return softmax(self._complete(self.tails, positions, values, temperature), dim=1)
        other = self._share_rest(positions, values)
        largest = torch.maximum(values.amax(dim=1, keepdim=True), other)
        weights = values.sub_(largest).div_(temperature).exp_()
        other = other.sub_(largest).div_(temperature).exp_()
        total = weights.sum(dim=1, keepdim=True).add_(other, alpha=self.classes - values.shape[1])
        return self._spread(positions, weights.div_(total), other / total)

    def distil(
        self, logits: Tensor, positions: Tensor, labels: Tensor, temperature: float, label_weight: float
    ) -> WithGradient:
        """`losses.distil` of logits (B, K) with the soft targets of the given examples (B,) and labels (B,)."""
        if self.tails is not None or not has_kernels(logits):
            return distil(logits, self.soften(positions, temperature, logits.device), labels, temperature, label_weight)
        settings = (positions, labels, temperature, label_weight)
        if self.class_ids is None or self.rest is None:
            return run_kernel(kernels.distil_dense_rows, logits, self.log_probs, *settings)
        return run_kernel(kernels.distil_sparse_rows, logits, self.log_probs, self.class_ids, self.rest, *settings)

    def _share_rest(self, positions: Tensor, values: Tensor) -> Tensor:
        """Log q (B, 1) of each class that is not stored, spread evenly."""
        assert self.rest is not None
        return (self.rest[positions].to(values.device) - math.log(self.classes - values.shape[1])).unsqueeze(1)

    def _spread(self, positions: Tensor, values: Tensor, other: Tensor) -> Tensor:
        """(B, K): the values (B, k) at their classes, the other one (B, 1) everywhere else."""
        dense = other.expand(-1, self.classes).clone(memory_format=torch.contiguous_format)
        return self._place(positions, values, dense)

    def _complete(self, tails: Tails, positions: Tensor, values: Tensor, temperature: float) -> Tensor:
        """(B, K): log q / temperature up to a constant of each example; the tail's, or the values where there are any.

        That constant is the tail's offset: taking it off k values is less work than adding it to K predictions.
        """
        predicted, offset = tails.predict(positions, 1 / temperature, values.device)
        return self._place(positions, values.sub_(offset).div_(temperature), predicted)

    def _place(self, positions: Tensor, values: Tensor, dense: Tensor) -> Tensor:
        assert self.class_ids is not None
        return dense.scatter_(1, self.class_ids[positions].to(values.device).long(), values)


class TargetsWriter:
    """Writes a cache block by block; the files appear, whole, when the `with` block ends without an error.

    The folder is the cache's own: what lies there, such as the leavings of a writer that was killed, is removed.
    Up to `dense_classes` classes, or top_k >= K, every class is stored; above, `top_k`. The others share their mass as
    the `tail` says, which was fitted to this teacher, or evenly.
    """

    def __init__(
        self,
        folder: Path,
        *,
        examples: int,
        classes: int,
        dense_classes: int,
        top_k: int,
        tail: TailBasis | None = None,
    ) -> None:
        if tail is not None and tail.directions.shape[1] != classes:
            raise ValueError(
                f"tail: made for {tail.directions.shape[1]} classes, not {classes}; fit it to this teacher"
            )
        self.folder, self.examples, self.classes = folder, examples, classes
        self.width = stored_classes(classes, dense_classes, top_k)
        self.tail = tail if self.width < classes else None
        self._filled = 0
        self._files = ExitStack()
        self._append: dict[str, Callable[[Array], object]] = {}

    def __enter__(self) -> TargetsWriter:
        for leftover in list_files(self.folder):
            remove(leftover)
        self._open_part("log_probs", np.float16, self.width)
        if self.width < self.classes:
            self._open_part("class_ids", np.int16 if self.classes <= 2**15 else np.int32, self.width)
            self._open_part("rest", np.float32)
        if self.tail is not None:
            write_array(self.folder / "tail.npy", self.tail.pack())
            self._open_part("coefficients", np.float16, self.tail.rank)
            self._open_part("offsets", np.float32)
        return self

    def _open_part(self, name: str, dtype: Any, *columns: int) -> None:
        shape = (self.examples, *columns)
        self._append[name] = self._files.enter_context(write_rows(self.folder / f"{name}.npy", shape, dtype))

    def append(self, log_probs: Tensor) -> None:
        """Store the next rows. log_probs: (n, K). Raises ValueError where they are NaN and not all are stored."""
        for block in log_probs.float().split(max(1, BLOCK_BYTES // (4 * self.classes))):
            parts = {"log_probs": _compress(block)} if self.width == self.classes else self._summarise(block)
            for name, part in parts.items():
                self._append[name](part)
            self._filled += len(block)

    def _summarise(self, log_probs: Tensor) -> dict[str, Array]:
        """The sparse form of a few rows, by the name of the file."""
        parts: dict[str, Array] = {}
        if self.tail is None:
            ids = find_largest(log_probs, self.width)
        else:
            coefficients = self.tail.project(log_probs)
            predicted, parts["coefficients"] = self.tail.predict(coefficients), coefficients.numpy()
            ids = choose_classes(log_probs, predicted, self.width)
        rest = log_probs.scatter(1, ids, -math.inf).logsumexp(dim=1).clamp(min=FLOOR)
        if self.tail is not None:
            parts["offsets"] = (rest - predicted.scatter_(1, ids, -math.inf).logsumexp(dim=1)).numpy()
        values = _compress(log_probs.gather(1, ids))
        return {**parts, "log_probs": values, "class_ids": ids.numpy(), "rest": rest.numpy()}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._filled != self.examples:
            error = ValueError(
                f"targets: {self._filled} rows were appended, expected {self.examples}; append each row once"
            )
            self._files.__exit__(type(error), error, None)
            raise error
        self._files.__exit__(kind, error, trace)
        if error is None:
            rank = self.tail.rank if self.tail is not None else 0
            summary = {"classes": self.classes, "examples": self.examples, "stored": self.width, "tail_rank": rank}
            write_json(self.folder / "targets.json", summary)


def stored_classes(classes: int, dense_classes: int, top_k: int) -> int:
    """k, the classes that a cache stores of K: all up to dense_classes, else top_k."""
    return classes if classes <= dense_classes else min(top_k, classes)


def measure_kl_lost(
    targets: SoftTargets, positions: Tensor, log_probs: Tensor, temperatures: Iterable[float]
) -> dict[str, float]:
    """Mean KL(exact, stored) in nats at each temperature. log_probs: (B, K), the exact ones of the examples given."""
    stored = targets.read(positions).double()
    lost = {}
    for temperature in temperatures:
        exact = soften(log_probs.double(), temperature)
        log_ratio = log_softmax(log_probs.double() / temperature, 1) - log_softmax(stored / temperature, 1)
        lost[f"{temperature:g}"] = float(torch.where(exact > 0, exact * log_ratio, 0.0).sum(dim=1).mean())
    return lost


def _compress(values: Tensor) -> Array:
    return values.clamp(min=FLOOR).half().numpy()
