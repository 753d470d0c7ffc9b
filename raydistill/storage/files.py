"""Files that are whole or absent: JSON, arrays and tensors, written aside and then renamed. No pickle.

Comes in: a path and a value. Goes out: a file that a reader sees complete, even if the writer is killed at any moment;
what follows its folder is told of it (folders.py). Storage that refuses to write is waited for, up to a minute, where
the value can be written again; a full disk is told at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from raydistill.errors import DiskFullError, StorageError
from raydistill.storage.folders import publish

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Value = TypeVar("Value")
Sparse = Any
"""A scipy.sparse.csr_array: scipy brings no types."""
WRITE_BYTES = 1 << 20  # gathered before they are handed to the system
FULL = (errno.ENOSPC, errno.EDQUOT)
PASSING = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO, errno.ENOTCONN),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETUNREACH),
)
"""What network file systems answer while their server is away. EACCES and EROFS last, and are told at once."""
WAIT_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds between two attempts: each is twice the last


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it, on failure remove it.

    Raises DiskFullError, a line with the remedy, where there is no room.
    """
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")  # some writers look at the suffix
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(describe_full(path, error)) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # storage that refuses to write refuses this, too
            aside.unlink(missing_ok=True)
    publish(path)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """As `write_aside`, by write(aside); storage that refuses for a while is waited for.

    Raises StorageError where it refuses for longer than WAIT_SECONDS, DiskFullError at once.
    """

    def attempt() -> None:
        with write_aside(path) as aside:
            write(aside)

    try:
        try_again(attempt, WAIT_SECONDS, _passes)
    except OSError as error:
        if not _passes(error):
            raise
        raise StorageError(
            f"storage: {str(path.parent)!r} refuses to be written for {WAIT_SECONDS:.0f} s ({error.strerror});"
            " when it can be written again, the same command goes on from here"
        ) from error


def try_again(action: Callable[[], Value], seconds: float, passes: Callable[[Exception], bool]) -> Value:
    """What `action` gives; while it raises an error that passes, again, after pauses that grow, for so many seconds.

    Raises what it raised last.
    """
    began, pause = time.monotonic(), FIRST_PAUSE
    while True:
        try:
            return action()
        except Exception as error:
            if not passes(error) or time.monotonic() - began + pause > seconds:
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _passes(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in PASSING


def describe_full(path: Path, error: OSError) -> str:
    """The line for a full disk: the folder, the bytes free, the remedy."""
    free = "an unknown number of"
    with contextlib.suppress(OSError):
        free = f"{shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free:,}"
    return (
        f"storage: {str(path.parent)!r} cannot be written ({error.strerror}; {free} bytes free);"
        " make room, and the same command goes on from here"
    )


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
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document, keys in the given order; NaN is refused, so that any reader can read it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_array(path: Path, array: Array) -> None:
    """Write one array as .npy."""

    def write(aside: Path) -> None:
        with open(aside, "wb") as file:
            np.save(file, array, allow_pickle=False)

    write_whole(path, write)


def write_sparse(path: Path, matrix: Sparse) -> None:
    """Write one sparse matrix as .npz: the arrays of its parts."""
    from scipy.sparse import save_npz

    write_whole(path, lambda aside: save_npz(aside, matrix, compressed=False))


def read_sparse(path: Path) -> Sparse:
    """Read what `write_sparse` wrote."""
    from scipy.sparse import csr_array, load_npz

    return csr_array(load_npz(path))  # scipy allows no pickle here


@contextlib.contextmanager
def write_mapped(path: Path, shape: tuple[int, ...], dtype: Any) -> Iterator[np.memmap[Any, Any]]:
    """Give a writable array that lives in the file, for arrays larger than memory."""
    with write_aside(path) as aside:
        array = np.lib.format.open_memmap(aside, mode="w+", dtype=dtype, shape=shape)
        with open(aside, "r+b") as file:  # a full disk is told here; a page of the map without room ends the process
            os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
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
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    said = {"raydistill": json.dumps(metadata or {}, allow_nan=False)}

    def write(aside: Path) -> None:
        try:
            save_file(plain, aside, metadata=said)
        except SafetensorError as error:  # it tells the system's error in its text alone
            number = re.search(r"os error (\d+)|code: (\d+)", str(error))
            if number is None:
                raise
            raise _system_error(int(number[1] or number[2])) from error

    write_whole(path, write)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: the tensors and the metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads((file.metadata() or {}).get("raydistill", "{}"))
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of what `write_tensors` wrote, without its tensors. Raises OSError, ValueError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return json.loads((file.metadata() or {}).get("raydistill", "{}"))  # type: ignore[no-any-return]
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file") from error


def _system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON document in a canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
