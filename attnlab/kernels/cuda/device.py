"""Arrays on the CUDA device (or its simulator) and the sizes of blocks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from attnlab.hardware import reason, simulated

__all__ = ["THREADS", "TILE", "blocks", "empty", "reason", "simulated", "slice_width", "zeros"]

POISON = os.environ.get("ATTNLAB_POISON", "0") not in ("", "0")


# A block is TILE x TILE threads. The simulator runs one CPU thread for each, so it gets few.
TILE = 4 if simulated() else 16
# Threads of a one-dimensional block.
THREADS = 8 if simulated() else 256
# Bytes of shared memory that every CUDA device gives a block without being asked specially.
SHARED_BYTES = 48 * 1024


def empty(shape: tuple[int, ...] | int, dtype: Any) -> Any:
    """A device array; filled with NaN (integers: the smallest) when ATTNLAB_POISON is set."""
    from numba import cuda

    if not POISON:
        return cuda.device_array(shape, np.dtype(dtype))
    dtype = np.dtype(dtype)
    bad = np.nan if dtype.kind == "f" else np.iinfo(dtype).min if dtype.kind in "iu" else True
    return cuda.to_device(np.full(shape, bad, dtype))


def zeros(shape: tuple[int, ...] | int, dtype: Any) -> Any:
    """A device array of zeros."""
    from numba import cuda

    return cuda.to_device(np.zeros(shape, dtype))


def slice_width(width: int, dtype: Any, *, tiles: int, others: int) -> int:
    """How many columns of rows `width` wide fit in shared memory at a time.

    All of them, or a multiple of TILE: `tiles` tiles of TILE rows share a block's memory with
    `others` numbers a row.
    """
    room = (SHARED_BYTES // np.dtype(dtype).itemsize // TILE - others) // tiles
    return width if width <= room else room // TILE * TILE


def blocks(count: int, per_block: int = THREADS) -> int:
    """How many blocks cover `count` items; at least one."""
    return max(1, -(-count // per_block))
