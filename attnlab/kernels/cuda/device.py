"""The CUDA device or its simulator: whether it is there, arrays on it, and sizes of blocks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from attnlab.contract import BackendUnavailable

POISON = os.environ.get("ATTNLAB_POISON", "0") not in ("", "0")


def simulated() -> bool:
    """Whether Numba's CUDA simulator was chosen; it must be before numba is first imported."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


# A block is TILE x TILE threads. The simulator runs one CPU thread for each, so it gets few.
TILE = 4 if simulated() else 16
# Threads of a one-dimensional block.
THREADS = 8 if simulated() else 256
# Bytes of shared memory that every CUDA device gives a block without being asked specially.
SHARED_BYTES = 48 * 1024


def reason() -> str | None:
    """None where CUDA kernels can run, else one sentence that says why they cannot."""
    from numba import cuda

    if simulated():
        return None
    try:
        if cuda.is_available():
            return None
        cuda.detect()
    except Exception as error:
        words = " ".join(str(error).split())
        if "library cannot be found" in words:
            words = "the NVIDIA driver library was not found"
        return f"no CUDA device: {words.rstrip(' :')}"
    return (
        "no CUDA device was found; set NUMBA_ENABLE_CUDASIM=1 before starting Python to run "
        "kernels in Numba's simulator (tiny sizes only)"
    )


def require() -> None:
    """Raises BackendUnavailable with the reason where no CUDA kernel can run."""
    why = reason()
    if why:
        raise BackendUnavailable(f"backend cuda: {why}")


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


def blocks(count: int, per_block: int = THREADS) -> int:
    """How many blocks cover `count` items; at least one."""
    return max(1, -(-count // per_block))


def view(array: Any, *shape: int) -> Any:
    """A C-contiguous device array seen with another shape."""
    return array.reshape(*shape)
