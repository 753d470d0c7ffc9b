"""The cache of soft targets: log q of the teacher for every training row, stored once and free of temperature.

Comes in: log-probabilities (N, K). Goes out: `SoftTargets`, mapped from disk, which give log q for any rows; whoever
uses them applies a temperature. Dense: float16 for every class. Sparse: the k most probable classes and the exact mass
of the rest, spread evenly over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from raydistill.files import Array, map_array, read_json, write_json, write_mapped
from raydistill.kernels import losses as kernels
from raydistill.kernels.launch import has_kernels
from raydistill.losses import WithGradient, distil, run_kernel, soften

FLOOR = -60000.0  # float16 ends at -65504; exp of it is 0 at any temperature in use


@dataclass(frozen=True)
class SoftTargets:
    """Log-probabilities of a teacher for N examples.

    log_probs: (N, k) float16, for all classes (k = K) or for `class_ids` (N, k); rest: (N,) float32, log of the mass of
    all other classes together (sparse only). classes: K.
    """

    log_probs: Tensor
    classes: int
    class_ids: Tensor | None = None
    rest: Tensor | None = None

    @classmethod
    def open(cls, folder: Path) -> SoftTargets:
        """Map a cache from its folder; all processes of a node share the pages."""
        classes = read_json(folder / "targets.json")["classes"]
        log_probs = torch.from_numpy(map_array(folder / "log_probs.npy"))
        if not (folder / "class_ids.npy").exists():
            return cls(log_probs, classes)
        ids, rest = (torch.from_numpy(map_array(folder / f"{name}.npy")) for name in ("class_ids", "rest"))
        return cls(log_probs, classes, ids, rest)

    def read(self, positions: Tensor, device: torch.device | None = None) -> Tensor:
        """Log q of the given examples, float32 (B, K), normalised."""
        values = self.log_probs[positions].to(device).float()
        if self.class_ids is None or self.rest is None:
            return log_softmax(values, dim=1)
        others = self.classes - values.shape[1]
        other = (self.rest[positions].to(device) - math.log(others)).unsqueeze(1)
        return log_softmax(self._spread(self.class_ids[positions], values, other), dim=1)

    def soften(self, positions: Tensor, temperature: float, device: torch.device | None = None) -> Tensor:
        """Probabilities of the given examples at a temperature, softmax(log q / temperature): float32 (B, K).

        What `losses.soften` makes of `read`, but where only the most probable classes are stored, only they are worked
        on: all others have one probability.
        """
        values = self.log_probs[positions].to(device).float()
        if self.class_ids is None or self.rest is None:
            return softmax(values.div_(temperature), dim=1)
        others = self.classes - values.shape[1]
        other = (self.rest[positions].to(device) - math.log(others)).unsqueeze(1)
        largest = torch.maximum(values.amax(dim=1, keepdim=True), other)
        weights = values.sub_(largest).div_(temperature).exp_()
        other = other.sub_(largest).div_(temperature).exp_()
        total = weights.sum(dim=1, keepdim=True).add_(other, alpha=others)
        return self._spread(self.class_ids[positions], weights.div_(total), other / total)

    def distil(
        self, logits: Tensor, positions: Tensor, labels: Tensor, temperature: float, label_weight: float
    ) -> WithGradient:
        """`losses.distil` of logits (B, K) with the soft targets of the given examples (B,) and labels (B,)."""
        if not has_kernels(logits):
            return distil(logits, self.soften(positions, temperature, logits.device), labels, temperature, label_weight)
        settings = (positions, labels, temperature, label_weight)
        if self.class_ids is None or self.rest is None:
            return run_kernel(kernels.distil_dense_rows, logits, self.log_probs, *settings)
        return run_kernel(kernels.distil_sparse_rows, logits, self.log_probs, self.class_ids, self.rest, *settings)

    def _spread(self, class_ids: Tensor, values: Tensor, other: Tensor) -> Tensor:
        """(B, K): the values (B, k) at their classes, the other one (B, 1) everywhere else."""
        dense = other.expand(-1, self.classes).clone(memory_format=torch.contiguous_format)
        return dense.scatter_(1, class_ids.to(values.device).long(), values)


class TargetsWriter:
    """Writes a cache block by block; the files appear, whole, when the `with` block ends without an error.

    The folder is the cache's own: what lies there, such as the leavings of a writer that was killed, is removed.
    Up to `dense_classes` classes, or top_k >= K, every class is stored; above, the `top_k` most probable.
    """

    def __init__(self, folder: Path, *, examples: int, classes: int, dense_classes: int, top_k: int) -> None:
        self.folder, self.examples, self.classes = folder, examples, classes
        self.width = classes if classes <= dense_classes or top_k >= classes else top_k
        self._filled = 0
        self._files = ExitStack()

    def __enter__(self) -> TargetsWriter:
        for leftover in self.folder.glob("*"):
            leftover.unlink()
        shape = (self.examples, self.width)
        self._log_probs = self._files.enter_context(write_mapped(self.folder / "log_probs.npy", shape, np.float16))
        if self.width < self.classes:
            id_type = np.int16 if self.classes <= 2**15 else np.int32
            self._ids = self._files.enter_context(write_mapped(self.folder / "class_ids.npy", shape, id_type))
            self._rest = self._files.enter_context(write_mapped(self.folder / "rest.npy", shape[:1], np.float32))
        return self

    def append(self, log_probs: Tensor) -> None:
        """Store the next rows. log_probs: (n, K)."""
        rows = slice(self._filled, self._filled + len(log_probs))
        if self.width == self.classes:
            self._log_probs[rows] = _compress(log_probs)
        else:
            top = log_probs.topk(self.width, dim=1)
            self._log_probs[rows] = _compress(top.values)
            self._ids[rows] = top.indices.numpy()
            outside = log_probs.scatter(1, top.indices, -math.inf)
            self._rest[rows] = outside.logsumexp(dim=1).clamp(min=FLOOR).numpy()
        self._filled = rows.stop

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
            summary = {"classes": self.classes, "examples": self.examples, "stored": self.width}
            write_json(self.folder / "targets.json", summary)


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
