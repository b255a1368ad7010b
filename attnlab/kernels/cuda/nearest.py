"""The K nearest of many patches on CUDA, position discounted: product tiles, running top K."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS, TILE
from attnlab.kernels.cuda.tiles import ONE, ZERO, least

DEPTH = 32  # numbers of a patch in shared memory at one time
PADDED = DEPTH + 1  # threads that read a column then meet different banks


@cuda.jit(device=True)
def offer(keys, size, key):
    """Put a key into a heap of the keys.size smallest, the largest on top; the heap's new size."""
    if size < keys.size:
        at = size
        while at > 0 and keys[(at - 1) // 2] < key:
            keys[at] = keys[(at - 1) // 2]
            at = (at - 1) // 2
        size += 1
    else:
        at = 0
        while True:
            child = 2 * at + 1
            if child >= size:
                break
            if child + 1 < size and keys[child + 1] > keys[child]:
                child += 1
            if keys[child] <= key:
                break
            keys[at] = keys[child]
            at = child
    keys[at] = key
    return size


@cache
def _search_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(p, q, qy, qx, own, columns, rate, squared, keys, filled):
        """keys (queries, K) <- of the K nearest of each query, unordered; filled how many.

        One block has TILE queries and goes through the candidates in tiles, as a matrix product
        does, but sums squared differences: shared memory is what limits it, and nothing cancels.
        Then one thread a query offers the tile's distances to its heap. A key is size d^2
        (squared: size d).
        """
        left = cuda.shared.array((TILE, DEPTH), kind)
        right = cuda.shared.array((TILE, PADDED), kind)
        tile = cuda.shared.array((TILE, TILE), kind)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        i = cuda.blockIdx.x * TILE + y
        queries, candidates, size = p.shape[0], q.shape[0], p.shape[1]
        found = 0
        for first in range(0, candidates, TILE):
            j = first + x
            row = first + y  # the candidate that this thread loads
            total = kind(0)
            for k0 in range(0, size, DEPTH):
                for k in range(x, DEPTH, TILE):
                    inside = k0 + k < size
                    left[y, k] = p[i, k0 + k] if i < queries and inside else ZERO
                    right[y, k] = q[row, k0 + k] if row < candidates and inside else ZERO
                cuda.syncthreads()
                for k in range(least(DEPTH, size - k0)):
                    gap = left[y, k] - right[x, k]
                    total += gap * gap
                cuda.syncthreads()
            if i < queries and j < candidates:
                dy, dx = kind(i // columns) - qy[j], kind(i % columns) - qx[j]
                discount = ONE + rate * math.sqrt(dy * dy + dx * dx)
                tile[y, x] = total / (discount if squared else discount * discount)
            cuda.syncthreads()  # the next tile is written after two more: none is needed below
            if x == 0 and i < queries:
                for t in range(TILE):
                    if first + t < candidates and first + t != own[i]:
                        key = tile[y, t]
                        if found < keys.shape[1] or key < keys[i, 0]:
                            found = offer(keys[i], found, key)
        if x == 0 and i < queries:
            filled[i] = found

    return kernel


@cache
def _mean_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(keys, filled, size, squared, out):
        """out[i] <- the mean of d over the chosen candidates; 0 for none."""
        i = cuda.grid(1)
        if i >= out.size:
            return
        total = kind(0)
        for t in range(filled[i]):
            part = keys[i, t] / kind(size)
            total += part if squared else math.sqrt(part)
        out[i] = total / kind(filled[i]) if filled[i] > 0 else ZERO

    return kernel


def mean_distances(
    p: Any,
    q: Any,
    places: tuple[Any, Any],
    own: Any,
    columns: int,
    K: int,
    rate: float,
    squared: bool,
) -> Any:
    """Every query p (queries, size) against the candidates q: the mean of the K smallest d.

    d = d_color / (1 + rate |query - candidate|), d_color = |P - Q| / sqrt(size), or its square.
    Query i lies at row i // columns; `own` is the candidate that it leaves out, -1 for none.
    """
    dtype = np.dtype(p.dtype)
    queries, K = p.shape[0], min(K, q.shape[0])
    keys = device.empty((queries, K), dtype)
    filled, out = device.empty(queries, np.int64), device.empty(queries, dtype)
    _search_kernel(dtype.name)[device.blocks(queries, TILE), (TILE, TILE)](
        p, q, *places, own, columns, dtype.type(rate), squared, keys, filled
    )
    _mean_kernel(dtype.name)[device.blocks(queries), THREADS](
        keys, filled, p.shape[1], squared, out
    )
    return out
