"""Sums and extremes over a one-dimensional block of THREADS threads, by a tree in shared memory.

Every thread of the block must call them, with the same scratch row of THREADS numbers in shared
memory; every thread gets the result. The order of additions is fixed, so results are too.
"""

from __future__ import annotations

from numba import cuda

from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.tiles import least, most

assert THREADS & (THREADS - 1) == 0  # the tree halves


@cuda.jit(device=True)
def block_sum(value, scratch):
    """The sum of all threads' values."""
    thread = cuda.threadIdx.x
    scratch[thread] = value
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            scratch[thread] += scratch[thread + step]
        cuda.syncthreads()
        step //= 2
    total = scratch[0]
    cuda.syncthreads()
    return total


@cuda.jit(device=True)
def block_most(value, scratch):
    """The largest of all threads' values."""
    thread = cuda.threadIdx.x
    scratch[thread] = value
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            scratch[thread] = most(scratch[thread], scratch[thread + step])
        cuda.syncthreads()
        step //= 2
    largest = scratch[0]
    cuda.syncthreads()
    return largest


@cuda.jit(device=True)
def block_least(value, scratch):
    """The smallest of all threads' values."""
    thread = cuda.threadIdx.x
    scratch[thread] = value
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            scratch[thread] = least(scratch[thread], scratch[thread + step])
        cuda.syncthreads()
        step //= 2
    smallest = scratch[0]
    cuda.syncthreads()
    return smallest
