"""Fingerprints of examples, by which the same ones are found in two runs, wherever they are in the data.

Comes in: the mapped examples of a run, row numbers. Goes out: a number for each row, which hangs on its bytes alone.
"""

from __future__ import annotations

import hashlib

import numpy as np

from raydistill.storage.files import Array


def hash_rows(x: Array, rows: Array) -> Array:
    """BLAKE2b of the bytes of each row, cut to 64 bits. x: (N, ...) in the stored type; rows: (n,). Returns uint64."""
    hashes = np.empty(len(rows), dtype=np.uint64)
    for place, row in enumerate(rows):
        digest = hashlib.blake2b(np.ascontiguousarray(x[row]).data, digest_size=8).digest()
        hashes[place] = int.from_bytes(digest, "little")
    return hashes
