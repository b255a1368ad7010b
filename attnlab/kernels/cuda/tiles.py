"""Device functions for one TILE x TILE block: loads into shared memory, scores, online softmax.

The thread (x, y) = (threadIdx.x, threadIdx.y) owns query row y and key column x of a tile. A
kernel keeps in shared memory the query tile (TILE, dim), one tile for keys and then values
(TILE, max(dim, value_dim)), the scores (TILE, TILE) and three numbers a row: the running maximum,
the running sum and the factor by which the accumulator shrinks. Each thread accumulates the
output columns x, x + TILE, x + 2 TILE, … of its row in a local array.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from attnlab.kernels.cuda.device import THREADS, TILE, simulated


def constant(value: float) -> Any:
    """A number that leaves float32 expressions float32; it must be exact in float32.

    For Numba's compiler an integer or a Python float makes them float64, which most GPUs compute
    thirty to sixty times slower. In the simulator NumPy's rules hold: there a Python float bends.
    """
    return float(value) if simulated() else np.float32(value)


ZERO, ONE, NEGATIVE = constant(0), constant(1), constant(-math.inf)


# The built-in min and max do not compile in every release of Numba's CUDA target (0.68: the
# overload for *args is given two arguments), so kernels use these.
@cuda.jit(device=True)
def least(a, b):
    """The smaller of two numbers."""
    return a if a < b else b


@cuda.jit(device=True)
def most(a, b):
    """The larger of two numbers."""
    return a if a > b else b


@cuda.jit(device=True)
def highest(a, b):
    """The larger of two numbers, NaN if one of them is."""
    return a if a >= b or a != a else b


@cuda.jit(device=True)
def block_place(across, down):
    """(x, y, z) of this block, counted in blockIdx.x alone: y and z of a grid end at 65535."""
    flat = cuda.blockIdx.x
    return flat % across, flat // across % down, flat // across // down


@cuda.jit(device=True)
def thread_place(across, down):
    """(x, y, z) of this thread in blocks of THREADS along x alone, counted as by `block_place`."""
    part, y, z = block_place((across + THREADS - 1) // THREADS, down)
    return part * THREADS + cuda.threadIdx.x, y, z


@cuda.jit(device=True)
def load_rows(tile, source, first, last, width):
    """tile[r, :width] = source[first + r, :width], zero for rows at or beyond `last`."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    row = first + y
    for c in range(x, width, TILE):
        tile[y, c] = source[row, c] if row < last else ZERO


@cuda.jit(device=True)
def load_gathered(tile, source, index, first, last, width):
    """tile[r, :width] = source[index[first + r], :width], zero for places at or beyond `last`."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    place = first + y
    for c in range(x, width, TILE):
        tile[y, c] = source[index[place], c] if place < last else ZERO


@cuda.jit(device=True)
def dot(a, row_a, b, row_b, width):
    """Inner product of two rows of shared tiles."""
    total = a[row_a, 0] * b[row_b, 0]
    for c in range(1, width):
        total += a[row_a, c] * b[row_b, c]
    return total


@cuda.jit(device=True)
def row_scores(queries, shared, q, k, first, n, j0, keys, dim, wide):
    """q[first + y] . k[j0 + x], `wide` of the dim columns in shared memory at a time; where all fit
    `queries` must be loaded before. Synchronises the block."""
    x, y, score = cuda.threadIdx.x, cuda.threadIdx.y, q.dtype.type(0)
    for c0 in range(0, dim, wide):  # once, unless the heads are very wide
        width = least(wide, dim - c0)
        cuda.syncthreads()
        if dim > wide:
            load_rows(queries, q[:, c0:], first, n, width)
        load_rows(shared, k[:, c0:], j0, keys, width)
        cuda.syncthreads()
        score += dot(queries, y, shared, x, width)
    return score


@cuda.jit(device=True)
def start_rows(top, total, acc, columns):
    """Nothing seen yet: maximum -inf, sum 0, accumulator 0."""
    if cuda.threadIdx.x == 0:
        top[cuda.threadIdx.y] = NEGATIVE
        total[cuda.threadIdx.y] = 0
    for c in range(columns):
        acc[c] = 0


@cuda.jit(device=True)
def softmax_step(scores, top, total, shrink):
    """Fold a score tile into the running softmax: scores become weights relative to the new
    maximum, `shrink` the factor for what was accumulated before. Rows of -inf change nothing.

    Synchronises the block before and after; one thread a row works on the row's statistics.
    """
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    cuda.syncthreads()
    if x == 0:
        old = top[y]
        new = old
        for c in range(TILE):
            new = highest(new, scores[y, c])
        fresh = ZERO
        if new == NEGATIVE:
            shrink[y] = 1
        else:
            shrink[y] = math.exp(old - new) if old != NEGATIVE else ZERO
            top[y] = new
            for c in range(TILE):
                weight = math.exp(scores[y, c] - new) if scores[y, c] != NEGATIVE else ZERO
                scores[y, c] = weight
                fresh += weight
        if new == NEGATIVE:
            for c in range(TILE):
                scores[y, c] = 0
        total[y] = total[y] * shrink[y] + fresh
    cuda.syncthreads()


@cuda.jit(device=True)
def accumulate(acc, scores, values, shrink, value_dim):
    """acc = shrink * acc + weights @ values for the thread's row and columns."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    slot = 0
    for c in range(x, value_dim, TILE):
        total = acc[slot] * shrink[y]
        for j in range(TILE):
            total += scores[y, j] * values[j, c]
        acc[slot] = total
        slot += 1


@cuda.jit(device=True)
def accumulate_rows(acc, scores, shared, shrink, v, j0, keys, value_dim, wide):
    """`accumulate` of the values v[j0 : j0 + TILE], `wide` columns in shared memory at a time. Call
    it when no thread reads `shared` any more."""
    for c0 in range(0, value_dim, wide):
        width = least(wide, value_dim - c0)
        if c0 > 0:
            cuda.syncthreads()
        load_rows(shared, v[:, c0:], j0, keys, width)
        cuda.syncthreads()
        accumulate(acc[c0 // TILE :], scores, shared, shrink, width)


@cuda.jit(device=True)
def store_rows(out, row, acc, total, value_dim):
    """out[row] = acc / total; a row that saw nothing becomes 0, one of NaN stays NaN."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    slot = 0
    for c in range(x, value_dim, TILE):
        out[row, c] = acc[slot] / total[y] if total[y] != 0 else ZERO
        slot += 1
