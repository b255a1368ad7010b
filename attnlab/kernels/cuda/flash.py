"""Dense attention with an online softmax on CUDA: no n x n matrix leaves the chip.

One block works on TILE queries of one head and walks over the key tiles they may see. The
kernel is compiled once for each pair of widths and dtype (shared and local arrays need sizes
known at compile time). Heads too wide for shared memory pass through it in slices of columns.
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


@cache
def _kernel(dim: int, value_dim: int, dtype: str) -> Any:
    wide = device.slice_width(max(dim, value_dim), dtype, tiles=2, others=TILE + 3)
    narrow, columns = min(dim, wide), -(-value_dim // TILE)
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(q, k, v, mask, bias, scale, causal, left, out, lse):
        queries = cuda.shared.array((TILE, narrow), kind)
        shared = cuda.shared.array((TILE, wide), kind)  # keys, then values
        scores = cuda.shared.array((TILE, TILE), kind)
        top = cuda.shared.array(TILE, kind)
        total = cuda.shared.array(TILE, kind)
        shrink = cuda.shared.array(TILE, kind)
        acc = cuda.local.array(columns, kind)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        heads, n, keys = q.shape[1], q.shape[2], k.shape[2]
        part, h, b = tiles.block_place((n + TILE - 1) // TILE, heads)
        g = h // (heads // k.shape[1])  # grouped-query heads share keys and values
        first = part * TILE
        i = first + y
        offset = keys - n
        stop = tiles.least(keys, first + TILE + offset) if causal else keys
        start = tiles.most(0, first + offset - left) // TILE * TILE if left >= 0 else 0
        mb, mh, mi = b % mask.shape[0], h % mask.shape[1], i % mask.shape[2]
        bb, bh = b % bias.shape[0], h % bias.shape[1]

        if dim <= wide:
            tiles.load_rows(queries, q[b, h], first, n, dim)
        tiles.start_rows(top, total, acc, columns)
        for j0 in range(start, stop, TILE):
            score = tiles.row_scores(
                queries, shared, q[b, h], k[b, g], first, n, j0, keys, dim, wide
            )
            j = j0 + x
            seen = i < n and j < keys
            if causal and j > i + offset:
                seen = False
            if left >= 0 and j < i + offset - left:
                seen = False
            if seen and mask.shape[3] > 0 and not mask[mb, mh, mi, j]:
                seen = False
            score *= scale
            if seen and bias.shape[3] > 0:
                score += bias[bb, bh, i, j]
            scores[y, x] = score if seen else tiles.NEGATIVE
            tiles.softmax_step(scores, top, total, shrink)
            tiles.accumulate_rows(acc, scores, shared, shrink, v[b, g], j0, keys, value_dim, wide)
        cuda.syncthreads()
        if i < n:
            tiles.store_rows(out[b, h], i, acc, total, value_dim)
            if x == 0:
                lse[b, h, i] = top[y] + math.log(total[y]) if total[y] != 0 else tiles.NEGATIVE

    return kernel


def flash(
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float,
    causal: bool = False,
    left: int = -1,
    mask: Any = None,
    bias: Any = None,
) -> tuple[Any, Any]:
    """(out, lse) of softmax attention on device arrays.

    q (batch, heads, n, dim), k (batch, kv_heads, keys, dim), v (batch, kv_heads, keys,
    value_dim); mask (batch|1, heads|1, n|1, keys) bool; bias (batch|1, heads|1, n, keys);
    query i sees keys j <= i + keys - n if causal, and j >= i + keys - n - left if left >= 0.
    A query that sees nothing gets 0 and lse -inf.
    """
    batch, heads, n, dim = q.shape
    value_dim = v.shape[3]
    dtype = np.dtype(q.dtype)
    out = device.empty((batch, heads, n, value_dim), dtype)
    lse = device.empty((batch, heads, n), dtype)
    nothing = device.empty((1, 1, 1, 0), dtype)
    kernel = _kernel(dim, value_dim, dtype.name)
    kernel[device.blocks(n, TILE) * batch * heads, (TILE, TILE)](
        q,
        k,
        v,
        nothing if mask is None else mask,
        nothing if bias is None else bias,
        dtype.type(scale),
        causal,
        left,
        out,
        lse,
    )
    return out, lse


@cache
def _weights_kernel() -> Any:
    @cuda.jit
    def kernel(q, k, mask, bias, lse, scale, causal, left, weights):
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        heads, n, dim, keys = q.shape[1], q.shape[2], q.shape[3], k.shape[2]
        across, down = (keys + TILE - 1) // TILE, (n + TILE - 1) // TILE
        right, below, z = tiles.block_place(across, down)
        b, h = z // heads, z % heads
        i, j = below * TILE + y, right * TILE + x
        if i >= n or j >= keys:
            return
        offset = keys - n
        seen = not (causal and j > i + offset) and not (left >= 0 and j < i + offset - left)
        if seen and mask.shape[3] > 0:
            seen = mask[b % mask.shape[0], h % mask.shape[1], i % mask.shape[2], j]
        weight = tiles.ZERO
        if seen and lse[b, h, i] != tiles.NEGATIVE:
            g = h // (heads // k.shape[1])
            score = q[b, h, i, 0] * k[b, g, j, 0]
            for c in range(1, dim):
                score += q[b, h, i, c] * k[b, g, j, c]
            score *= scale
            if bias.shape[3] > 0:
                score += bias[b % bias.shape[0], h % bias.shape[1], i, j]
            weight = math.exp(score - lse[b, h, i])
        weights[b, h, i, j] = weight

    return kernel


def weights(
    q: Any,
    k: Any,
    lse: Any,
    *,
    scale: float,
    causal: bool = False,
    left: int = -1,
    mask: Any = None,
    bias: Any = None,
) -> Any:
    """The (batch, heads, n, keys) attention weights that belong to `flash`'s lse."""
    batch, heads, n, _ = q.shape
    keys = k.shape[2]
    dtype = np.dtype(q.dtype)
    out = device.empty((batch, heads, n, keys), dtype)
    nothing = device.empty((1, 1, 1, 0), dtype)
    grid = device.blocks(keys, TILE) * device.blocks(n, TILE) * batch * heads
    _weights_kernel()[grid, (TILE, TILE)](
        q,
        k,
        nothing if mask is None else mask,
        nothing if bias is None else bias,
        lse,
        dtype.type(scale),
        causal,
        left,
        out,
    )
    return out
