"""Relative attention on CUDA: a slab of table rows in shared memory, added to the keys it meets.

For a tile of queries and a tile of keys the offsets span 2 TILE - 1 consecutive table rows. Key and
table row are added before the one dot product with the query, so no n x n matrix leaves the chip and
no third product is needed.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import TILE

from . import EXHIBIT

SLAB = 2 * TILE - 1  # table rows that a tile of queries x keys meets


@cuda.jit(device=True)
def load_slab(slab, table, row0, width):
    """slab[r, :width] = table[row0 + r, :width] for SLAB rows, 0 outside the table."""
    x = cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, SLAB, TILE):
        row = row0 + r
        inside = row >= 0 and row < table.shape[0]
        for c in range(x, width, TILE):
            slab[r, c] = table[row, c] if inside else tiles.ZERO


@cuda.jit(device=True)
def visible(i, j, n, length, causal, block):
    """Whether query i sees key j; block > 0: only its own block and the one before."""
    seen = i < n and j < length
    if causal and j > i:
        seen = False
    if block > 0 and j // block < i // block - 1:
        seen = False
    return seen


@cache
def _kernel(dim: int, value_dim: int, dtype: str) -> Any:
    # queries, keys or values, and a slab of two tiles
    wide = device.slice_width(max(dim, value_dim), dtype, tiles=4, others=TILE + 3)
    narrow, columns = min(dim, wide), -(-value_dim // TILE)
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(q, k, v, rel_k, rel_v, lengths, scale, zero, causal, block, y_out, lse):
        queries = cuda.shared.array((TILE, narrow), kind)
        shared = cuda.shared.array((TILE, wide), kind)  # keys, then values
        slab = cuda.shared.array((SLAB, wide), kind)  # their table rows
        scores = cuda.shared.array((TILE, TILE), kind)
        top = cuda.shared.array(TILE, kind)
        total = cuda.shared.array(TILE, kind)
        shrink = cuda.shared.array(TILE, kind)
        acc = cuda.local.array(columns, kind)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        heads, n = q.shape[1], q.shape[2]
        part, h, b = tiles.block_place((n + TILE - 1) // TILE, heads)
        first = part * TILE
        i = first + y
        length = lengths[b]
        stop = tiles.least(length, first + TILE) if causal else length
        start = 0
        if block > 0:
            start = tiles.most(0, (first // block - 1) * block) // TILE * TILE

        if dim <= wide:
            tiles.load_rows(queries, q[b, h], first, n, dim)
        tiles.start_rows(top, total, acc, columns)
        for j0 in range(start, stop, TILE):
            row0 = j0 - first - TILE + 1 + zero
            place = x - y + TILE - 1
            score = kind(0)
            for c0 in range(0, dim, wide):  # once, unless the heads are very wide
                width = tiles.least(wide, dim - c0)
                cuda.syncthreads()
                if dim > wide:
                    tiles.load_rows(queries, q[b, h, :, c0:], first, n, width)
                tiles.load_rows(shared, k[b, h, :, c0:], j0, n, width)
                load_slab(slab, rel_k[h % rel_k.shape[0], :, c0:], row0, width)
                cuda.syncthreads()
                for c in range(width):
                    score += queries[y, c] * (shared[x, c] + slab[place, c])
            seen = visible(i, j0 + x, n, length, causal, block)
            scores[y, x] = score * scale if seen else tiles.NEGATIVE
            tiles.softmax_step(scores, top, total, shrink)
            for c0 in range(0, value_dim, wide):
                width = tiles.least(wide, value_dim - c0)
                if c0 > 0:
                    cuda.syncthreads()
                tiles.load_rows(shared, v[b, h, :, c0:], j0, n, width)
                if rel_v.shape[1] > 0:
                    load_slab(slab, rel_v[h % rel_v.shape[0], :, c0:], row0, width)
                cuda.syncthreads()
                part_of = acc[c0 // TILE :]
                tiles.accumulate(part_of, scores, shared, shrink, width)
                if rel_v.shape[1] > 0:
                    for slot in range((width - x + TILE - 1) // TILE):
                        for j in range(TILE):
                            part_of[slot] += scores[y, j] * slab[j - y + TILE - 1, x + slot * TILE]
        cuda.syncthreads()
        if i < n:
            tiles.store_rows(y_out[b, h], i, acc, total, value_dim)
            if x == 0:
                lse[b, h, i] = top[y] + math.log(total[y])

    return kernel


@cache
def _weights_kernel() -> Any:
    @cuda.jit
    def kernel(q, k, rel_k, lengths, lse, scale, zero, causal, weights):
        heads, n, dim = q.shape[1], q.shape[2], q.shape[3]
        across = (n + TILE - 1) // TILE
        right, below, z = tiles.block_place(across, across)
        b, h = z // heads, z % heads
        i, j = below * TILE + cuda.threadIdx.y, right * TILE + cuda.threadIdx.x
        if i >= n or j >= n:
            return
        if not visible(i, j, n, lengths[b], causal, 0):
            weights[b, h, i, j] = 0
            return
        table = rel_k[h % rel_k.shape[0]]
        row = j - i + zero
        inside = row >= 0 and row < table.shape[0]
        score = tiles.ZERO
        for c in range(dim):
            key = k[b, h, j, c]
            if inside:
                key += table[row, c]
            score += q[b, h, i, c] * key
        weights[b, h, i, j] = math.exp(score * scale - lse[b, h, i])

    return kernel


def _attend(
    q: Any,
    k: Any,
    v: Any,
    rel_k: Any,
    rel_v: Any = None,
    *,
    zero: int,
    scale: float | None,
    causal: bool,
    lengths: Any = None,
    block: int = 0,
    weighed: bool = False,
) -> tuple[Any, Any]:
    """(y, weights or None); table row (j - i) + zero belongs to offset j - i, others are 0."""
    batch, heads, n, dim = q.shape
    value_dim = v.shape[3]
    dtype = np.dtype(q.dtype)
    rel_k = _per_head(rel_k)
    rel_v = device.empty((1, 0, 1), dtype) if rel_v is None else _per_head(rel_v)
    if lengths is None:
        lengths = cuda.to_device(np.full(batch, n))
    scale = dtype.type(dim**-0.5 if scale is None else scale)
    y = device.empty((batch, heads, n, value_dim), dtype)
    lse = device.empty((batch, heads, n), dtype)
    kernel = _kernel(dim, value_dim, dtype.name)
    kernel[device.blocks(n, TILE) * batch * heads, (TILE, TILE)](
        q, k, v, rel_k, rel_v, lengths, scale, zero, causal, block, y, lse
    )
    if not weighed:
        return y, None
    weights = device.empty((batch, heads, n, n), dtype)
    grid = device.blocks(n, TILE) ** 2 * batch * heads
    _weights_kernel()[grid, (TILE, TILE)](q, k, rel_k, lengths, lse, scale, zero, causal, weights)
    return y, weights


def _per_head(table: Any) -> Any:
    return table if len(table.shape) == 3 else table.reshape(1, *table.shape)


def _rows(table: Any) -> int:
    return int(_per_head(table).shape[1])


@EXHIBIT.path
def relative_attend(
    q: Any,
    k: Any,
    v: Any,
    rel_k: Any,
    rel_v: Any = None,
    *,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference. The n x n weights are stored only when asked for."""
    zero = _rows(rel_k) - 1  # the row of distance 0
    how: dict[str, Any] = {
        "zero": zero,
        "scale": scale,
        "causal": True,
        "weighed": "weights" in want,
    }
    y, weights = _attend(q, k, v, rel_k, rel_v, **how)
    return {"y": y, "weights": weights}


@EXHIBIT.path
def relative_attend_local(
    q: Any, k: Any, v: Any, rel_k: Any, *, block_length: int, scale: float | None = None
) -> dict[str, Any]:
    """See the reference."""
    n = q.shape[2]
    block = n if n < 2 * block_length else block_length
    y, _ = _attend(q, k, v, rel_k, zero=_rows(rel_k) - 1, scale=scale, causal=True, block=block)
    return {"y": y}


@EXHIBIT.path
def relative_attend_bidirectional(
    q: Any,
    k: Any,
    v: Any,
    rel_k: Any,
    lengths: Any = None,
    *,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference."""
    zero = _rows(rel_k) // 2  # the middle row is offset 0
    how: dict[str, Any] = {
        "zero": zero,
        "scale": scale,
        "causal": False,
        "weighed": "weights" in want,
    }
    y, weights = _attend(q, k, v, rel_k, lengths=lengths, **how)
    return {"y": y, "weights": weights}
