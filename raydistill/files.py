"""Files that are whole or absent: JSON, arrays and tensors, written aside and then renamed. No pickle.

Comes in: a path and a value. Goes out: a file that a reader sees complete, even if the writer is killed at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Sparse = Any
"""A scipy.sparse.csr_array: scipy brings no types."""
WRITE_BYTES = 1 << 20  # gathered before they are handed to the system


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")  # some writers look at the suffix
    try:
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def link_file(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where that fails, as between file systems; what lies at the target is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        with write_aside(target) as aside:
            shutil.copyfile(source, aside)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document, keys in the given order; NaN is refused, so that any reader can read it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_array(path: Path, array: Array) -> None:
    """Write one array as .npy."""
    with write_aside(path) as aside, open(aside, "wb") as file:
        np.save(file, array, allow_pickle=False)


def write_sparse(path: Path, matrix: Sparse) -> None:
    """Write one sparse matrix as .npz: the arrays of its parts."""
    from scipy.sparse import save_npz

    with write_aside(path) as aside:
        save_npz(aside, matrix, compressed=False)


def read_sparse(path: Path) -> Sparse:
    """Read what `write_sparse` wrote."""
    from scipy.sparse import csr_array, load_npz

    return csr_array(load_npz(path))  # scipy allows no pickle here


@contextlib.contextmanager
def write_mapped(path: Path, shape: tuple[int, ...], dtype: Any) -> Iterator[np.memmap[Any, Any]]:
    """Give a writable array that lives in the file, for arrays larger than memory."""
    with write_aside(path) as aside:
        array = np.lib.format.open_memmap(aside, mode="w+", dtype=dtype, shape=shape)
        yield array
        array.flush()


@contextlib.contextmanager
def write_rows(path: Path, shape: tuple[int, ...], dtype: Any) -> Iterator[Callable[[Array], object]]:
    """Give a function that appends rows to an array in a file; whoever calls it sees to it that the shape comes true.

    Measured: writing to a map of the file, which the system fills page by page, takes several times as long.
    """
    kind = np.dtype(dtype)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with write_aside(path) as aside, open(aside, "wb", buffering=WRITE_BYTES) as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda rows: file.write(np.ascontiguousarray(rows, dtype=kind).data)


def map_array(path: Path) -> Array:
    """Map a .npy file: pages are shared by all processes of a node, and a write stays private to the writer.

    Copy-on-write, because torch would write through a read-only map or an object-store array into everyone's data.
    """
    return np.load(path, mmap_mode="c", allow_pickle=False)  # type: ignore[no-any-return]


def read_array(path: Path) -> Array:
    """Read a .npy file into memory."""
    return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors as safetensors; `metadata` travels in the same file as JSON, so that both are from one moment."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with write_aside(path) as aside:
        save_file(plain, aside, metadata={"raydistill": json.dumps(metadata or {}, allow_nan=False)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: the tensors and the metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads((file.metadata() or {}).get("raydistill", "{}"))
    return tensors, metadata


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON document in a canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
