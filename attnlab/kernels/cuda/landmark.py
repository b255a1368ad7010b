"""The two-level softmax of landmark attention on CUDA: in tiles, and in place on stored rows.

`end` says for every key the position of the landmark that closes its block, or a number beyond all
positions while the block is open; a key is a landmark where end[j] == j. Heads too wide for shared
memory pass through it in slices of columns.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import THREADS, TILE


def block_ends(is_landmark: np.ndarray, never: int) -> np.ndarray:
    """end (…, n) from flags (…, n), on the host."""
    at = np.where(is_landmark, np.arange(is_landmark.shape[-1]), never)
    return np.ascontiguousarray(np.minimum.accumulate(at[..., ::-1], axis=-1)[..., ::-1], np.int64)


@cache
def _attend(dim: int, dtype: str) -> Any:
    wide, columns = device.slice_width(dim, dtype, tiles=2, others=TILE + 6), -(-dim // TILE)
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(q, k, v, end, scale, out):
        queries = cuda.shared.array((TILE, wide), kind)
        shared = cuda.shared.array((TILE, wide), kind)  # keys, then values
        scores = cuda.shared.array((TILE, TILE), kind)
        state = cuda.shared.array((6, TILE), kind)
        acc = cuda.local.array(columns, kind)  # outer: landmarks and own tokens
        inner = cuda.local.array(columns, kind)  # inside the current block
        top, total, block_top, block_total = state[0], state[1], state[2], state[3]
        shrink, gate = state[4], state[5]

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        heads, n = q.shape[1], q.shape[2]
        part, h, b = tiles.block_place((n + TILE - 1) // TILE, heads)
        first = part * TILE
        i = first + y
        if dim <= wide:
            tiles.load_rows(queries, q[b, h], first, n, dim)
        tiles.start_rows(top, total, acc, columns)
        tiles.start_rows(block_top, block_total, inner, columns)
        for j0 in range(0, tiles.least(n, first + TILE), TILE):
            score = tiles.row_scores(queries, shared, q[b, h], k[b, h], first, n, j0, n, dim, wide)
            scores[y, x] = score * scale
            cuda.syncthreads()
            if dim <= wide:
                tiles.load_rows(shared, v[b, h], j0, n, dim)
            begin = 0
            while begin < TILE and j0 + begin < n:  # block by block, the same for all threads
                close = end[b, j0 + begin]
                stop = tiles.least(TILE, tiles.least(close, n) - j0)
                past = close < i
                cuda.syncthreads()
                if x == 0:
                    m = block_top[y] if past else top[y]
                    last = stop if past else tiles.least(stop, i + 1 - j0)
                    new = m
                    for c in range(begin, last):
                        new = tiles.most(new, scores[y, c])
                    fresh = kind(0)
                    shrink[y] = 1
                    for c in range(begin, stop):
                        weight = math.exp(scores[y, c] - new) if c < last else kind(0)
                        scores[y, c] = weight
                        fresh += weight
                    if new != m:
                        shrink[y] = math.exp(m - new)
                    if past:
                        block_top[y] = new
                        block_total[y] = block_total[y] * shrink[y] + fresh
                    else:
                        top[y] = new
                        total[y] = total[y] * shrink[y] + fresh
                cuda.syncthreads()
                for c0 in range(0, dim, wide):
                    width = tiles.least(wide, dim - c0)
                    if dim > wide:
                        cuda.syncthreads()
                        tiles.load_rows(shared, v[b, h, :, c0:], j0, n, width)
                        cuda.syncthreads()
                    for c in range(x, width, TILE):
                        weighed = kind(0)
                        for j in range(begin, stop):
                            weighed += scores[y, j] * shared[j, c]
                        slot = (c0 + c) // TILE
                        if past:
                            inner[slot] = inner[slot] * shrink[y] + weighed
                        else:
                            acc[slot] = acc[slot] * shrink[y] + weighed
                if close - j0 < TILE:  # the landmark: the block enters the outer softmax
                    cuda.syncthreads()
                    if x == 0:
                        shrink[y], gate[y] = 1, 0
                        if past:
                            new = tiles.most(top[y], scores[y, close - j0])
                            shrink[y] = math.exp(top[y] - new)
                            share = math.exp(scores[y, close - j0] - new)
                            top[y] = new
                            total[y] = total[y] * shrink[y] + share
                            if block_total[y] != 0:  # NaN stays NaN
                                gate[y] = share / block_total[y]
                        block_top[y] = tiles.NEGATIVE
                        block_total[y] = 0
                    cuda.syncthreads()
                    for slot in range(columns):
                        acc[slot] = acc[slot] * shrink[y] + gate[y] * inner[slot]
                        inner[slot] = 0
                begin = close - j0 + 1 if close - j0 < TILE else TILE
        cuda.syncthreads()
        if i < n:
            tiles.store_rows(out[b, h], i, acc, total, dim)

    return kernel


def attend(q: Any, k: Any, v: Any, end: Any, scale: float) -> Any:
    """out (batch, heads, n, dim) of causal landmark attention; end (batch, n)."""
    batch, heads, n, dim = q.shape
    dtype = np.dtype(q.dtype)
    out = device.empty(q.shape, dtype)
    grid = device.blocks(n, TILE) * batch * heads
    _attend(dim, dtype.name)[grid, (TILE, TILE)](q, k, v, end, dtype.type(scale), out)
    return out


@cuda.jit(device=True)
def weigh_row(row, last, end):
    """row <- weights of a query at place `last` over the scores row[:last + 1]; what follows is 0."""
    top = row.dtype.type(tiles.NEGATIVE)
    begin = 0
    while begin <= last:
        close = end[begin]
        if close < last:
            top = tiles.most(top, row[close])
        else:
            for j in range(begin, tiles.least(close, last + 1)):
                top = tiles.most(top, row[j])
        begin = close + 1
    total = row.dtype.type(0)
    begin = 0
    while begin <= last:
        close = end[begin]
        if close < last:
            share = math.exp(row[close] - top)
            total += share
            block_top = row.dtype.type(tiles.NEGATIVE)
            for j in range(begin, close):
                block_top = tiles.most(block_top, row[j])
            block_total = row.dtype.type(0)
            for j in range(begin, close):
                row[j] = math.exp(row[j] - block_top)
                block_total += row[j]
            for j in range(begin, close):
                row[j] *= share / block_total
            row[close] = 0
        else:
            for j in range(begin, tiles.least(close, last + 1)):
                row[j] = math.exp(row[j] - top)
                total += row[j]
            if close <= last:
                row[close] = 0
        begin = close + 1
    for j in range(row.size):
        row[j] = row[j] / total if j <= last and total != 0 else tiles.ZERO


@cache
def _weigh() -> Any:
    @cuda.jit
    def kernel(rows, end, scale, offset):
        item = cuda.grid(1)
        many, n = rows.shape[:2]
        if item >= many * n:
            return
        z, i = item // n, item % n
        row = rows[z, i]
        for j in range(offset + i + 1):
            row[j] *= scale
        weigh_row(row, offset + i, end[z // (many // end.shape[0])])

    return kernel


def weigh(rows: Any, end: Any, scale: float = 1.0) -> None:
    """rows (batch*heads, n, offset + n): scores become weights in place; query i stands at offset + i.

    end (batch, offset + n).
    """
    many, n, width = rows.shape
    scale = np.dtype(rows.dtype).type(scale)
    _weigh()[device.blocks(many * n), THREADS](rows, end, scale, width - n)
