"""Sums and extremes over a one-dimensional block of THREADS threads, by a tree in shared memory.

Every thread of the block must call them, with the same scratch row of THREADS numbers in shared
memory; every thread gets the result. The order of additions is fixed, so results are too.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.tiles import least, most

assert THREADS & (THREADS - 1) == 0  # the tree halves


def _over_block(combine: Any) -> Any:
    """block_…(value, scratch): all threads' values, combined in pairs."""

    @cuda.jit(device=True)
    def reduce(value, scratch):
        thread = cuda.threadIdx.x
        scratch[thread] = value
        cuda.syncthreads()
        step = THREADS // 2
        while step > 0:
            if thread < step:
                scratch[thread] = combine(scratch[thread], scratch[thread + step])
            cuda.syncthreads()
            step //= 2
        result = scratch[0]
        cuda.syncthreads()
        return result

    return reduce


@cuda.jit(device=True)
def _plus(a, b):
    return a + b


block_sum = _over_block(_plus)
block_most = _over_block(most)
block_least = _over_block(least)
