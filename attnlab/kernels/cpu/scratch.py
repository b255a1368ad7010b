"""Uninitialised memory; with `ATTNLAB_POISON=1` filled with NaN (integers: a sentinel).

A kernel that reads what it never wrote works by luck on fresh memory. Poisoned, it gives NaN or an
index far out of range, and the contract tests see it.
"""

import numpy as np
from numba import types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, overload

from attnlab.kernels.cpu.runtime import POISON, block

SENTINEL = -(2**30)  # fits every signed type from 32 bits up, and is an index no array has


def _poison(array):
    if array.dtype.kind == "f":
        array.fill(np.nan)
    elif array.dtype.kind == "i" and array.dtype.itemsize >= 4:
        array.fill(SENTINEL)
    else:
        array.fill(1)


@overload(_poison)
def _poison_overload(array):
    if isinstance(array.dtype, types.Float):
        return lambda array: array.fill(np.nan)
    if isinstance(array.dtype, types.Integer) and array.dtype.signed and array.dtype.bitwidth >= 32:
        return lambda array: array.fill(SENTINEL)
    return lambda array: array.fill(1)


def empty(shape: int | tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """`np.empty`, poisoned on demand: for a wrapper's outputs and workspaces."""
    array = np.empty(shape, dtype)
    if POISON:
        _poison(array)
    return array


@block
def tile(shape, dtype):
    """`np.empty`, poisoned on demand, inside kernels: `tile((rows, columns), q.dtype)`.

    Allocate once a thread, outside the loop over tiles: fresh memory costs page faults.
    """
    array = np.empty(shape, dtype)
    if POISON:
        _poison(array)
    return array


@intrinsic
def packed(typingctx, row):
    """The same 1-D array, of which the caller knows that its elements are adjacent.

    Rows of a tile that is itself part of a wider array have the type of a strided array; a loop
    over that type is not vectorised and runs several times slower.
    """
    contiguous = row.copy(layout="C")

    def codegen(context, builder, signature, args):
        return impl_ret_borrowed(context, builder, contiguous, args[0])

    return contiguous(row), codegen
