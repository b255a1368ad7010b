"""Mixture-of-head attention on CUDA: blocks of queries that no token of theirs needs return at once."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import THREADS, TILE
from attnlab.kernels.cuda.matmul import linear

from . import EXHIBIT


@cuda.jit(device=True)
def softmax_in_place(row):
    """row <- softmax(row), by one thread."""
    top = row[0]
    for e in range(1, row.shape[0]):
        top = tiles.most(top, row[e])
    total = row.dtype.type(0)
    for e in range(row.shape[0]):
        row[e] = math.exp(row[e] - top)
        total += row[e]
    for e in range(row.shape[0]):
        row[e] /= total


@cuda.jit(device=True)
def choose(p, K, gates):
    """gates <- 1 at the K largest of p, of equals the lower index first, 0 elsewhere."""
    for e in range(p.shape[0]):
        gates[e] = 0
    for _ in range(K):
        best = -1
        for e in range(p.shape[0]):
            if gates[e] == 0 and (best < 0 or p[e] > p[best]):
                best = e
        gates[best] = 1


@cuda.jit
def _route(p, shared, balance, gates, chosen, S, K, tiny):
    """One thread a token; p (rows, E), shared (rows, S | 0), balance (rows, 2 | 0): the logits."""
    i = cuda.grid(1)
    if i >= gates.shape[0]:
        return
    E = gates.shape[1] - S
    for e in range(S):
        gates[i, e] = 1
    if S > 1:
        softmax_in_place(shared[i])
        for e in range(S):
            gates[i, e] = S * shared[i, e]
    for e in range(S, S + E):
        gates[i, e] = 0
    if K == 0:
        return
    softmax_in_place(p[i])
    choose(p[i], K, chosen[i])
    mass = p.dtype.type(0)
    for e in range(E):
        mass += p[i, e] * chosen[i, e]
    for e in range(E):
        gates[i, S + e] = K * (p[i, e] * chosen[i, e]) / tiles.most(mass, tiny)
    if S > 0:
        softmax_in_place(balance[i])
        for e in range(S + E):
            gates[i, e] *= 2 * balance[i, 0 if e < S else 1]


@cuda.jit
def _column_means(a, out):
    """One block a column of a (rows, columns): its mean."""
    partial = cuda.shared.array(THREADS, numba.float64)
    x, column = cuda.threadIdx.x, cuda.blockIdx.x
    total = 0.0
    for i in range(x, a.shape[0], THREADS):
        total += a[i, column]
    partial[x] = total
    cuda.syncthreads()
    if x == 0:
        for t in range(1, THREADS):
            total += partial[t]
        out[column] = total / a.shape[0]


@cuda.jit
def _balance(f, P, aux):
    total = 0.0
    for e in range(f.shape[0]):
        total += f[e] * P[e]
    aux[()] = f.shape[0] * total


@cache
def _attention(dim: int, dtype: str) -> Any:
    wide, columns = device.slice_width(dim, dtype, tiles=2, others=TILE + 4), -(-dim // TILE)
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(qkv, gates, scale, every, mixed, heads):
        queries = cuda.shared.array((TILE, wide), kind)
        shared = cuda.shared.array((TILE, wide), kind)  # keys, then values
        scores = cuda.shared.array((TILE, TILE), kind)
        top = cuda.shared.array(TILE, kind)
        total = cuda.shared.array(TILE, kind)
        shrink = cuda.shared.array(TILE, kind)
        needed = cuda.shared.array(1, numba.int32)
        acc = cuda.local.array(columns, kind)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        n, n_head = gates.shape[1], gates.shape[2]
        part, h, b = tiles.block_place((n + TILE - 1) // TILE, n_head)
        first = part * TILE
        i = first + y
        if x == 0 and y == 0:
            needed[0] = 1 if every else 0
            for r in range(first, tiles.least(first + TILE, n)):
                if gates[b, r, h] != 0:
                    needed[0] = 1
        cuda.syncthreads()
        if needed[0] == 0:  # no token of the tile chose this head
            if i < n:
                for c in range(x, dim, TILE):
                    mixed[b, i, h, c] = 0
            return
        if dim <= wide:
            tiles.load_rows(queries, qkv[b, :, 0, h], first, n, dim)
        tiles.start_rows(top, total, acc, columns)
        for j0 in range(0, n, TILE):
            score = tiles.row_scores(
                queries, shared, qkv[b, :, 0, h], qkv[b, :, 1, h], first, n, j0, n, dim, wide
            )
            scores[y, x] = score * scale if i < n and j0 + x < n else tiles.NEGATIVE
            tiles.softmax_step(scores, top, total, shrink)
            tiles.accumulate_rows(acc, scores, shared, shrink, qkv[b, :, 2, h], j0, n, dim, wide)
        cuda.syncthreads()
        if i < n:
            for slot in range((dim - x + TILE - 1) // TILE):
                value = acc[slot] / total[y]
                mixed[b, i, h, x + slot * TILE] = gates[b, i, h] * value
                if every:
                    heads[b, i, h, x + slot * TILE] = value

    return kernel


@cuda.jit
def _route_by_norm(q, gates, scores, S, K):
    """One thread a token; q (rows, heads, dim)."""
    i = cuda.grid(1)
    if i >= q.shape[0]:
        return
    E = scores.shape[1]
    for h in range(S):
        gates[i, h] = 1
    if E == 0:
        return
    mean = q[i, 0, 0] * 0
    for e in range(E):
        total = mean * 0
        for d in range(q.shape[2]):
            total += q[i, S + e, d] ** 2
        scores[i, e] = math.sqrt(total)
        mean += scores[i, e]
    mean /= E
    spread = mean * 0
    for e in range(E):
        spread += (scores[i, e] - mean) ** 2
    deviation = math.sqrt(spread / (E - 1))
    for e in range(E):
        scores[i, e] /= deviation
    softmax_in_place(scores[i])
    choose(scores[i], K, gates[i, S:])


def _two_stage(
    x: Any, W_r: Any, W_s: Any, W_h: Any, n_head: int, n_shared: int, top_k: int
) -> tuple[Any, Any]:
    batch, n, _ = x.shape
    rows, E, dtype = batch * n, n_head - n_shared, np.dtype(x.dtype)
    p, shared, balance = (
        device.empty((rows, 0), dtype) if W is None else linear(x, W).reshape(rows, W.shape[0])
        for W in (W_r, W_s, W_h)
    )
    gates, chosen = device.empty((rows, n_head), dtype), device.empty((rows, E), dtype)
    _route[device.blocks(rows), THREADS](
        p, shared, balance, gates, chosen, n_shared, top_k, np.finfo(dtype).eps
    )
    aux = None
    if top_k:
        f, P, aux = (device.empty(size, dtype) for size in (E, E, ()))
        _column_means[E, THREADS](chosen, f)
        _column_means[E, THREADS](p, P)
        _balance[1, 1](f, P, aux)
    return gates.reshape(batch, n, n_head), aux


@EXHIBIT.path
def gates(
    x: Any,
    W_r: Any = None,
    W_s: Any = None,
    W_h: Any = None,
    *,
    n_head: int,
    n_shared: int,
    top_k: int,
) -> dict[str, Any]:
    """See the reference."""
    made, aux = _two_stage(x, W_r, W_s, W_h, n_head, n_shared, top_k)
    return {"gates": made, "aux": aux}


@EXHIBIT.path
def attend(
    x: Any,
    W_qkv: Any,
    b_qkv: Any = None,
    *,
    W_o: Any,
    b_o: Any,
    W_r: Any = None,
    W_s: Any = None,
    W_h: Any = None,
    n_head: int,
    n_shared: int,
    top_k: int,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference."""
    batch, n, channels = x.shape
    dim, dtype = channels // n_head, np.dtype(x.dtype)
    g, aux = _two_stage(x, W_r, W_s, W_h, n_head, n_shared, top_k)
    qkv = linear(x, W_qkv, b_qkv).reshape(batch, n, 3, n_head, dim)
    every = "heads" in want
    mixed = device.empty((batch, n, n_head, dim), dtype)
    heads = device.empty((batch, n, n_head, dim) if every else (1, 1, 1, 1), dtype)
    _attention(dim, dtype.name)[device.blocks(n, TILE) * batch * n_head, (TILE, TILE)](
        qkv, g, dtype.type(dim**-0.5 if scale is None else scale), every, mixed, heads
    )
    y = linear(mixed.reshape(batch, n, channels), W_o, b_o)
    return {"y": y, "gates": g, "heads": heads if every else None, "aux": aux}


@EXHIBIT.path
def norm_gates(q: Any, *, n_shared: int, top_k: int) -> dict[str, Any]:
    """See the reference."""
    batch, n, heads, dim = q.shape
    rows, dtype = batch * n, np.dtype(q.dtype)
    gates = device.empty((rows, heads), dtype)
    scores = device.empty((rows, heads - n_shared), dtype)
    _route_by_norm[device.blocks(rows), THREADS](
        q.reshape(rows, heads, dim), gates, scores, n_shared, top_k
    )
    return {
        "gates": gates.reshape(batch, n, heads),
        "scores": scores.reshape(batch, n, heads - n_shared),
    }
