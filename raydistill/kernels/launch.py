"""How kernels are compiled and called: on as many threads as PyTorch uses, with tensors as arguments.

Measured: numba's OpenMP layer shares PyTorch's pool of threads (20 µs a call after a product of matrices); its own
work queue, the fallback where there is no OpenMP, takes 110 µs. When numba starts its OpenMP layer it sets PyTorch's
number of threads to that of the processors, whatever OMP_NUM_THREADS says; here it gets back what it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import numba
import torch
from torch import Tensor

SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}  # so that sums run in vectors; never "no NaN", "no infinity"
_one_at_a_time = threading.Lock()  # numba's work queue ends the process when two threads enter it


def _start_threads() -> int:
    """Start numba's threads, which may be one for each processor, and keep PyTorch's number of them."""
    before = torch.get_num_threads()
    threads: int = numba.get_num_threads()
    torch.set_num_threads(before)
    return threads


_most_threads = _start_threads()


def compile_kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator: compile a loop, in parallel where it says prange, cached beside its file; called with tensors."""
    compiled = numba.njit(
        parallel="prange" in function.__code__.co_names,
        cache=True,
        nogil=True,
        error_model="numpy",
        fastmath=SUMS_IN_ANY_ORDER,
        boundscheck=False,
    )(function)

    @wraps(function)
    def launch(*arguments: Any) -> None:
        arrays = [_as_array(value) if isinstance(value, Tensor) else value for value in arguments]
        with _one_at_a_time:
            numba.set_num_threads(min(torch.get_num_threads(), _most_threads))
            compiled(*arrays)

    return launch


def compile_part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: a function that kernels call; inside it, sums run in any order."""
    return numba.njit(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER, boundscheck=False)(function)


def has_kernels(*tensors: Tensor) -> bool:
    """Whether kernels can work on these tensors: float32 rows, one after another in a processor's memory."""
    return all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors
    )


def _as_array(tensor: Tensor) -> Any:
    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.float16 else tensor.numpy()  # numba has no halves
