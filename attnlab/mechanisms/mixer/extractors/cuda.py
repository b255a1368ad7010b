"""Extractors on CUDA: tiled products over lags, direct filters, two-level running sums."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import THREADS, TILE
from attnlab.kernels.cuda.matmul import matmul

from . import EXHIBIT

CHUNK = TILE  # rows that one thread sums up by itself


@EXHIBIT.path
def extract(
    x: Any,
    W: Any = None,
    w: Any = None,
    W_shared: Any = None,
    W_adj: Any = None,
    w_adj: Any = None,
    *,
    kind: str,
    index: str = "lag",
    sqrt_scale: bool = True,
) -> dict[str, Any]:
    """See the reference."""
    batch, n, dim = x.shape
    dtype = np.dtype(x.dtype)
    y = device.empty((batch, n, dim), dtype)
    if y.size == 0:
        return {"y": y}
    v = x if W_shared is None else _times(x, W_shared)
    e = device.empty((batch, n, dim), dtype)
    flat = device.blocks(e.size)
    if kind != "SHE":
        w = w.reshape(w.shape[0], 1) if kind == "ME" else w
    if index == "lag" and kind == "SHE":
        grid = device.blocks(dim, TILE) * device.blocks(n, TILE) * batch
        _sum_lags(dtype.name)[grid, (TILE, TILE)](v, W, e)
    elif index == "lag":
        _filter()[flat, THREADS](v, w, e)
    else:
        if kind == "SHE":
            _transform_places()[flat, THREADS](v, W, e)
        else:
            _weigh_places()[flat, THREADS](v, w, e)
        chunks = -(-n // CHUNK)
        totals = device.empty((batch, chunks, dim), dtype)
        _sum_chunks()[device.blocks(totals.size), THREADS](e, totals)
        _add_before()[flat, THREADS](e, totals)
    if kind == "ME":
        _adjust_by_vector()[flat, THREADS](e, x, w_adj, sqrt_scale, y)
    else:
        _adjust()[flat, THREADS](e, _times(x, W_adj), sqrt_scale, y)
    return {"y": y}


def _times(x: Any, weight: Any) -> Any:
    """x @ weight over the last axis."""
    batch, n, dim = x.shape
    flat = matmul(x.reshape(1, batch * n, dim), weight.reshape(1, dim, dim))
    return flat.reshape(batch, n, dim)


@cache
def _sum_lags(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(x, W, e):
        """(1) by lag: e_t = sum_l x_{t-l} W[l], one matrix product with inner index (l, d)."""
        tokens = cuda.shared.array((TILE, TILE), kind)
        weights = cuda.shared.array((TILE, TILE), kind)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        n, dim = x.shape[1], x.shape[2]
        across, down = (dim + TILE - 1) // TILE, (n + TILE - 1) // TILE
        right, below, b = tiles.block_place(across, down)
        first = below * TILE
        t, c = first + ty, right * TILE + tx
        total = kind(0)
        for lag in range(first + TILE):
            if lag < n:
                for d0 in range(0, dim, TILE):
                    seen = t < n and t >= lag and d0 + tx < dim
                    tokens[ty, tx] = x[b, t - lag, d0 + tx] if seen else tiles.ZERO
                    weights[ty, tx] = (
                        W[lag, d0 + ty, c] if d0 + ty < dim and c < dim else tiles.ZERO
                    )
                    cuda.syncthreads()
                    for d in range(TILE):
                        total += tokens[ty, d] * weights[d, tx]
                    cuda.syncthreads()
        if t < n and c < dim:
            e[b, t, c] = total

    return kernel


@cache
def _filter() -> Any:
    @cuda.jit
    def kernel(v, table, e):
        """(2) to (4) by lag: e_t = sum_l table[l] * v_{t-l}; table (L, dim) or (L, 1)."""
        batch, n, dim = e.shape
        item = cuda.grid(1)
        if item >= batch * n * dim:
            return
        c, t, b = item % dim, item // dim % n, item // dim // n
        column = c if table.shape[1] > 1 else 0
        total = v.dtype.type(0)
        for lag in range(t + 1):
            total += table[lag, column] * v[b, t - lag, c]
        e[b, t, c] = total

    return kernel


@cache
def _transform_places() -> Any:
    @cuda.jit
    def kernel(x, W, z):
        """z_j = x_j W[j]."""
        batch, n, dim = z.shape
        item = cuda.grid(1)
        if item >= batch * n * dim:
            return
        c, j, b = item % dim, item // dim % n, item // dim // n
        total = x.dtype.type(0)
        for d in range(dim):
            total += x[b, j, d] * W[j, d, c]
        z[b, j, c] = total

    return kernel


@cache
def _weigh_places() -> Any:
    @cuda.jit
    def kernel(v, table, z):
        """z_j = table[j] * v_j."""
        batch, n, dim = z.shape
        item = cuda.grid(1)
        if item < batch * n * dim:
            c, j, b = item % dim, item // dim % n, item // dim // n
            z[b, j, c] = v[b, j, c] * table[j, c if table.shape[1] > 1 else 0]

    return kernel


@cache
def _sum_chunks() -> Any:
    @cuda.jit
    def kernel(z, totals):
        """z <- running sums within each chunk; their last rows into totals (batch, chunks, dim)."""
        batch, chunks, dim = totals.shape
        item = cuda.grid(1)
        if item >= batch * chunks * dim:
            return
        c, chunk, b = item % dim, item // dim % chunks, item // dim // chunks
        total = z.dtype.type(0)
        for j in range(CHUNK):
            t = chunk * CHUNK + j
            if t < z.shape[1]:
                total += z[b, t, c]
                z[b, t, c] = total
        totals[b, chunk, c] = total

    return kernel


@cache
def _add_before() -> Any:
    @cuda.jit
    def kernel(z, totals):
        """z += the totals of the chunks before."""
        batch, n, dim = z.shape
        item = cuda.grid(1)
        if item >= batch * n * dim:
            return
        c, t, b = item % dim, item // dim % n, item // dim // n
        before = z.dtype.type(0)
        for chunk in range(t // CHUNK):
            before += totals[b, chunk, c]
        z[b, t, c] += before

    return kernel


@cuda.jit(device=True)
def root(value, count, sqrt_scale):
    """value / sqrt(count), or value; count a float of the arrays' kind."""
    return value / math.sqrt(count) if sqrt_scale else value


@cache
def _adjust() -> Any:
    @cuda.jit
    def kernel(e, a, sqrt_scale, y):
        """(6) with the adjustment a (batch, n, dim)."""
        batch, n, dim = y.shape
        item = cuda.grid(1)
        if item < batch * n * dim:
            c, t, b = item % dim, item // dim % n, item // dim // n
            y[b, t, c] = root(e[b, t, c] * a[b, t, c], e.dtype.type(t + 1), sqrt_scale)

    return kernel


@cache
def _adjust_by_vector() -> Any:
    @cuda.jit
    def kernel(e, x, w_adj, sqrt_scale, y):
        """(6) with a = x * w_adj."""
        batch, n, dim = y.shape
        item = cuda.grid(1)
        if item < batch * n * dim:
            c, t, b = item % dim, item // dim % n, item // dim // n
            value = e[b, t, c] * x[b, t, c] * w_adj[c]
            y[b, t, c] = root(value, e.dtype.type(t + 1), sqrt_scale)

    return kernel
