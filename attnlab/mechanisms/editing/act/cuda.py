"""Attention calibration on CUDA: tiled attention, column sums tile by tile, masked attention.

out_k = beta * sum_{t in S'} A[k,t] v_t + (1 - beta * mass_k) * rest_k, with rest_k the attention
over the keys outside S' and mass_k row k's weight on S': two tiled passes and a short sum.
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
from attnlab.kernels.cuda.flash import flash, weights
from attnlab.kernels.cuda.tiles import ONE, ZERO

from . import EXHIBIT, bar


@EXHIBIT.path
def calibrated_attend(
    q: Any,
    k: Any,
    v: Any,
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference. Nothing n x n is stored unless a map is asked for."""
    _, h, n, dim = q.shape
    dtype = np.dtype(q.dtype)
    scale = dim**-0.5
    out, lse = flash(q, k, v, scale=scale, causal=True)

    mean = device.empty((h, n), dtype)
    _mean_kernel(dim, dtype.name)[(device.blocks(n, TILE), h), (TILE, TILE)](
        q, k, lse, dtype.type(scale), mean
    )
    edited = np.isin(np.arange(h), np.arange(h) if heads is None else heads)
    sinks, others = device.empty((h, n), bool), device.empty((1, h, 1, n), bool)
    _sinks_kernel()[device.blocks(h), THREADS](
        mean, cuda.to_device(edited), dtype.type(bar(n, threshold, alpha, np.finfo(dtype).eps)), sinks,
        others,
    )  # fmt: skip

    rest, rest_lse = flash(q, k, v, scale=scale, causal=True, mask=others)
    _move_kernel()[(device.blocks(n), h), THREADS](
        q, k, v, sinks, lse, rest, rest_lse, dtype.type(scale), dtype.type(beta), out
    )
    made = {"column_mean": mean, "sink_mask": sinks, "out": out}
    if want & {"probs", "probs_calibrated"}:
        made["probs"] = weights(q, k, lse, scale=scale, causal=True)
        made["probs_calibrated"] = device.empty((1, h, n, n), dtype)
        _map_kernel()[(device.blocks(n), h), THREADS](
            made["probs"], sinks, dtype.type(beta), made["probs_calibrated"]
        )
    return made


@cache
def _mean_kernel(dim: int, dtype: str) -> Any:
    kind = getattr(numba, dtype)
    wide = device.slice_width(dim, dtype, tiles=2, others=TILE)

    @cuda.jit
    def kernel(q, k, lse, scale, mean):
        """(1): a block owns TILE keys of a head and walks over the tiles of queries below them."""
        keys = cuda.shared.array((TILE, wide), kind)
        queries = cuda.shared.array((TILE, wide), kind)
        partial = cuda.shared.array((TILE, TILE), kind)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        n = q.shape[2]
        head, first = cuda.blockIdx.y, cuda.blockIdx.x * TILE
        t = first + x
        total = kind(0)
        for i0 in range(first, n, TILE):
            score = kind(0)
            for c0 in range(0, dim, wide):
                width = tiles.least(wide, dim - c0)
                cuda.syncthreads()
                if dim > wide or i0 == first:
                    tiles.load_rows(keys, k[0, head, :, c0:], first, n, width)
                tiles.load_rows(queries, q[0, head, :, c0:], i0, n, width)
                cuda.syncthreads()
                score += tiles.dot(queries, y, keys, x, width)
            i = i0 + y
            if i < n and t <= i:
                total += math.exp(score * scale - lse[0, head, i])
        partial[y, x] = total
        cuda.syncthreads()
        if y == 0 and t < n:
            for row in range(1, TILE):
                total += partial[row, x]
            mean[head, t] = total / kind(n - t)

    return kernel


@cache
def _sinks_kernel() -> Any:
    @cuda.jit
    def kernel(mean, edited, threshold, sinks, others):
        """(2): one thread a head; the first sink is spared."""
        head = cuda.grid(1)
        if head >= mean.shape[0]:
            return
        seen = False
        for t in range(mean.shape[1]):
            above = mean[head, t] > threshold
            sink = above and seen and edited[head]
            sinks[head, t] = sink
            others[0, head, 0, t] = not sink
            seen = seen or above

    return kernel


@cache
def _move_kernel() -> Any:
    @cuda.jit
    def kernel(q, k, v, sinks, lse, rest, rest_lse, scale, beta, out):
        """One thread a query: sum over the sinks it sees, then (5)."""
        i, head = cuda.grid(1), cuda.blockIdx.y
        if i >= q.shape[2]:
            return
        # rho = 0, a row entirely on sinks: it stays as it is
        if math.exp(rest_lse[0, head, i] - lse[0, head, i]) == 0:
            return
        mass = ZERO
        for t in range(i + 1):
            if not sinks[head, t]:
                continue
            score = q[0, head, i, 0] * k[0, head, t, 0]
            for c in range(1, q.shape[3]):
                score += q[0, head, i, c] * k[0, head, t, c]
            a = math.exp(score * scale - lse[0, head, i])
            if a == 0:
                continue
            for c in range(v.shape[3]):
                held = out[0, head, i, c] if mass > 0 else ZERO
                out[0, head, i, c] = held + beta * a * v[0, head, t, c]
            mass += a
        if mass > 0:
            for c in range(v.shape[3]):
                out[0, head, i, c] += (ONE - beta * mass) * rest[0, head, i, c]

    return kernel


@cache
def _map_kernel() -> Any:
    @cuda.jit
    def kernel(probs, sinks, beta, edited):
        """(3)-(5): one thread a row of the map."""
        i, head = cuda.grid(1), cuda.blockIdx.y
        n = probs.shape[2]
        if i >= n:
            return
        mass, rho = ZERO, ZERO
        for t in range(i + 1):
            if sinks[head, t]:
                mass += probs[0, head, i, t]
            else:
                rho += probs[0, head, i, t]
        for t in range(n):
            a = probs[0, head, i, t]
            if rho > 0:  # mass / rho may overflow
                a = beta * a if sinks[head, t] else a + (ONE - beta) * mass * (a / rho)
            edited[0, head, i, t] = a

    return kernel
