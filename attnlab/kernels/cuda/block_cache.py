"""Decoding from a cache of key blocks on CUDA: landmarks scored, best blocks chosen, rows attended.

Rotary positions enter as differences: turn(q, a) . turn(k, p) = q . turn(k, p - a), so that neither
queries nor cached keys are ever rewritten. Tables of width 0 mean that nothing is rotated.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import THREADS


@cuda.jit(device=True)
def turned_dot(q, k, cos, sin, apart):
    """q . turn(k, apart), pairs (2i, 2i+1)."""
    total = q.dtype.type(0)
    if cos.shape[1] == 0:
        for d in range(q.size):
            total += q[d] * k[d]
        return total
    c, s = cos[abs(apart)], sin[abs(apart)]
    sign = tiles.ONE if apart >= 0 else -tiles.ONE
    for p in range(c.size):
        total += c[p] * (q[2 * p] * k[2 * p] + q[2 * p + 1] * k[2 * p + 1])
        total += sign * s[p] * (q[2 * p + 1] * k[2 * p] - q[2 * p] * k[2 * p + 1])
    return total


@cache
def _landmarks() -> Any:
    @cuda.jit
    def kernel(q, block_k, first, positions, start, cos, sin, scale, p):
        item = cuda.grid(1)
        heads, T, blocks = p.shape
        if item >= heads * T * blocks:
            return
        h, t, r = item // blocks // T, item // blocks % T, item % blocks
        landmark = block_k[h, first + r, block_k.shape[2] - 1]
        apart = positions[r] - start - t
        p[h, t, r] = turned_dot(q[h, t], landmark, cos, sin, apart) * scale

    return kernel


@cache
def _softmax() -> Any:
    @cuda.jit
    def kernel(p):
        item = cuda.grid(1)
        if item >= p.shape[0] * p.shape[1]:
            return
        row = p[item // p.shape[1], item % p.shape[1]]
        top = row[0]
        for r in range(1, row.size):
            top = tiles.most(top, row[r])
        total = p.dtype.type(0)
        for r in range(row.size):
            row[r] = math.exp(row[r] - top)
            total += row[r]
        for r in range(row.size):
            row[r] /= total

    return kernel


@cache
def _share(axis: int) -> Any:
    @cuda.jit
    def kernel(p):
        item = cuda.grid(1)
        heads, T, blocks = p.shape
        others = T if axis == 0 else heads
        if item >= others * blocks:
            return
        a, r = item // blocks, item % blocks
        top = p[0, a, r] if axis == 0 else p[a, 0, r]
        for z in range(p.shape[axis]):
            top = tiles.most(top, p[z, a, r] if axis == 0 else p[a, z, r])
        for z in range(p.shape[axis]):
            if axis == 0:
                p[z, a, r] = top
            else:
                p[a, z, r] = top

    return kernel


@cache
def _choose() -> Any:
    @cuda.jit
    def kernel(p, chosen):
        item = cuda.grid(1)
        if item >= p.shape[0] * p.shape[1]:
            return
        row, best = (
            p[item // p.shape[1], item % p.shape[1]],
            chosen[item // p.shape[1], item % p.shape[1]],
        )
        K, found = best.size, 0
        for r in range(row.size):  # best first; the earlier of equals
            if found == K and not row[r] > row[best[K - 1]]:
                continue
            place = found if found < K else K - 1
            while place > 0 and row[r] > row[best[place - 1]]:
                best[place] = best[place - 1]
                place -= 1
            best[place] = r
            found = tiles.least(found + 1, K)
        for a in range(1, K):  # in time order
            r, place = best[a], a
            while place > 0 and best[place - 1] > r:
                best[place] = best[place - 1]
                place -= 1
            best[place] = r

    return kernel


@cache
def _scores() -> Any:
    @cuda.jit
    def kernel(q, local_k, block_k, first, chosen, recent, start, tail, cos, sin, scale, rows):
        item = cuda.grid(1)
        heads, T, width = rows.shape
        if item >= heads * T * width:
            return
        h, t, j = item // width // T, item // width % T, item % width
        b = block_k.shape[2]
        retrieved = chosen.shape[2] * b
        now = start + t
        if j < retrieved:
            r = chosen[h, t, j // b]
            position = j + (b if r >= recent else 0)
            score = turned_dot(q[h, t], block_k[h, first + r, j % b], cos, sin, position - now)
        elif j - retrieved <= tail + t:
            position = start - tail + j - retrieved
            score = turned_dot(q[h, t], local_k[h, j - retrieved], cos, sin, position - now)
        else:
            score = q.dtype.type(0)
        rows[h, t, j] = score * scale

    return kernel


@cache
def _average() -> Any:
    @cuda.jit
    def kernel(rows, chosen, local_v, block_v, first, out):
        item = cuda.grid(1)
        heads, T, dim = out.shape
        if item >= heads * T * dim:
            return
        h, t, d = item // dim // T, item // dim % T, item % dim
        b = block_v.shape[2]
        retrieved = chosen.shape[2] * b
        total = out.dtype.type(0)
        for j in range(rows.shape[2]):
            if j < retrieved:
                total += rows[h, t, j] * block_v[h, first + chosen[h, t, j // b], j % b, d]
            else:
                total += rows[h, t, j] * local_v[h, j - retrieved, d]
        out[h, t, d] = total

    return kernel


def choose_blocks(
    q: Any, block_k: Any, first: int, positions: np.ndarray, start: int, chosen: int,
    selection: str, cos: Any, sin: Any,
) -> Any:  # fmt: skip
    """(heads, T, chosen) the best cached blocks of each query, in time order.

    q (heads, T, dim) at positions start …; the cache begins at block `first` of block_k; positions
    (blocks,) of the landmarks.
    """
    heads, T, dim = q.shape
    blocks = len(positions)
    dtype = np.dtype(q.dtype)
    index = device.empty((heads, T, chosen), np.int64)
    if chosen == 0:
        return index
    p = device.empty((heads, T, blocks), dtype)
    _landmarks()[device.blocks(heads * T * blocks), THREADS](
        q, block_k, first, cuda.to_device(positions.astype(np.int64)), start, cos, sin,
        dtype.type(dim**-0.5), p,
    )  # fmt: skip
    each = device.blocks(heads * T)
    _softmax()[each, THREADS](p)
    if selection == "max_over_heads":
        _share(0)[device.blocks(T * blocks), THREADS](p)
    if selection == "max_over_tokens":
        _share(1)[device.blocks(heads * blocks), THREADS](p)
    _choose()[each, THREADS](p, index)
    return index


def score_rows(
    q: Any, local_k: Any, block_k: Any, first: int, chosen: Any, recent: int, start: int, tail: int,
    cos: Any, sin: Any,
) -> Any:  # fmt: skip
    """(heads, T, retrieved + tail + T) scores; cached blocks from `recent` on have their own slots."""
    heads, T, dim = q.shape
    dtype = np.dtype(q.dtype)
    width = chosen.shape[2] * block_k.shape[2] + local_k.shape[1]
    rows = device.empty((heads, T, width), dtype)
    _scores()[device.blocks(heads * T * width), THREADS](
        q,
        local_k,
        block_k,
        first,
        chosen,
        recent,
        start,
        tail,
        cos,
        sin,
        dtype.type(dim**-0.5),
        rows,
    )
    return rows


def average(rows: Any, chosen: Any, local_v: Any, block_v: Any, first: int) -> Any:
    """(heads, T, dim) values averaged by rows (heads, T, retrieved + local) of weights."""
    heads, T, _ = rows.shape
    out = device.empty((heads, T, local_v.shape[2]), rows.dtype)
    _average()[device.blocks(int(np.prod(out.shape))), THREADS](
        rows, chosen, local_v, block_v, first, out
    )
    return out
