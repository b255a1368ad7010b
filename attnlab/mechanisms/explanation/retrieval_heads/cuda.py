"""Retrieval heads on CUDA: a block of threads a row for the scores, tiled attention for the layer."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.flash import flash, weights
from attnlab.kernels.cuda.matmul import linear
from attnlab.layers.cuda import merge_heads, split_rotated
from attnlab.layers.rotary import tables

from . import EXHIBIT


@EXHIBIT.path
def score_heads(
    prompt_ids: Any,
    needle_span: Any,
    generated: Any,
    attention: Any,
    *,
    top_k: int = 1,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference."""
    T, layers, heads, keys = attention.shape
    per_step = device.zeros((T, layers, heads), attention.dtype)
    scores = device.zeros((2, layers, heads), attention.dtype)  # (2), and as sets
    if T:
        rows = attention.reshape(T, layers * heads, keys)
        events = per_step.reshape(T, layers * heads)
        grid = (layers * heads, T)
        _score_kernel()[grid, THREADS](prompt_ids, needle_span, generated, rows, top_k, events)
        _sum_kernel()[device.blocks(layers * heads), THREADS](
            prompt_ids, needle_span, generated, events, scores.reshape(2, layers * heads)
        )
    made = {"retrieval_score": scores[0], "per_step": per_step}
    return made | ({"set_score": scores[1]} if "set_score" in want else {})


@cache
def _score_kernel() -> Any:
    @cuda.jit
    def kernel(prompt, span, generated, attention, top_k, events):
        """events (T, heads) <- 1/(e-s) where a copy of g_t lies among the top_k keys of a row.

        All threads look up the best place a copy could come from (the needle is short), then
        share the counting of larger weights.
        """
        larger = cuda.shared.array(THREADS, numba.int64)
        h, t, x = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
        s, e = span[0], span[1]
        row = attention[t, h]
        best = -1
        for j in range(s, e):
            if prompt[j] == generated[t] and (best < 0 or row[j] > row[best]):
                best = j
        if best < 0:  # the same for the whole block
            return
        found = 0
        for i in range(x, tiles.least(prompt.size + t, row.size), THREADS):
            if row[i] > row[best] or (row[i] == row[best] and i < best):
                found += 1
        larger[x] = found
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if x < half:
                larger[x] += larger[x + half]
            half //= 2
        if x == 0 and larger[0] < top_k:
            events[t, h] = 1 / (e - s)

    return kernel


@cache
def _sum_kernel() -> Any:
    @cuda.jit
    def kernel(prompt, span, generated, events, scores):
        """scores (2, heads) <- sums over the steps; shares of the needle's distinct tokens."""
        h = cuda.grid(1)
        if h >= events.shape[1]:
            return
        total, tokens = events[0, h] * 0, 0
        for t in range(events.shape[0]):
            total += events[t, h]
            new = events[t, h] > 0
            for before in range(t):
                if events[before, h] > 0 and generated[before] == generated[t]:
                    new = False
            if new:
                tokens += 1
        distinct = 0
        for j in range(span[0], span[1]):
            new = True
            for before in range(span[0], j):
                if prompt[before] == prompt[j]:
                    new = False
            if new:
                distinct += 1
        scores[0, h] = total
        scores[1, h] = tokens / distinct

    return kernel


@EXHIBIT.path
def mask_heads(
    x: Any,
    block_heads: Any,
    q_proj: Any,
    k_proj: Any,
    v_proj: Any,
    o_proj: Any,
    *,
    n_heads: int,
    n_kv_heads: int,
    rope_base: float = 10000.0,
    causal: bool = False,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference. A uniform head is a mean of the values: it needs no scores."""
    batch, n, _ = x.shape
    dim, m, dtype = q_proj.shape[0] // n_heads, block_heads.shape[0], np.dtype(x.dtype)
    angles = tables(np.arange(n), dim, rope_base)
    cos, sin = (cuda.to_device(np.tile(t, 2).astype(dtype)) for t in angles)

    q, k = (split_rotated(linear(x, W), cos, sin) for W in (q_proj, k_proj))
    v = split_rotated(linear(x, v_proj), cos, sin, turned=False)
    O, lse = flash(q, k, v, scale=dim**-0.5, causal=True)
    made = {"out_plain": linear(merge_heads(O), o_proj)}
    if m:
        grid = (device.blocks(dim), m, batch)
        _flatten_kernel()[grid, THREADS](v, block_heads, n_heads // n_kv_heads, causal, O)
    made["out_masked"] = linear(merge_heads(O), o_proj)
    if want & {"weights_plain", "weights_masked"}:
        made["weights_plain"] = weights(q, k, lse, scale=dim**-0.5, causal=True)
        masked = weights(q, k, lse, scale=dim**-0.5, causal=True)
        if m:
            grid = (device.blocks(n * n), m, batch)
            _uniform_kernel()[grid, THREADS](block_heads, causal, masked)
        made["weights_masked"] = masked
    return made


@cache
def _flatten_kernel() -> Any:
    @cuda.jit
    def kernel(v, block_heads, groups, causal, O):
        """O[:, blocked] <- the mean of the values, of all or of those up to each query."""
        d, h, b = cuda.grid(1), block_heads[cuda.blockIdx.y], cuda.blockIdx.z
        n = v.shape[2]
        if d >= v.shape[3]:
            return
        values, total = v[b, h // groups], v[b, 0, 0, 0] * 0
        for i in range(n):
            total += values[i, d]
            if causal:
                O[b, h, i, d] = total / (i + 1)
        if not causal:
            for i in range(n):
                O[b, h, i, d] = total / n

    return kernel


@cache
def _uniform_kernel() -> Any:
    @cuda.jit
    def kernel(block_heads, causal, A):
        """A[:, blocked] <- 1/n everywhere, or 1/(i+1) up to the diagonal."""
        place, h, b = cuda.grid(1), block_heads[cuda.blockIdx.y], cuda.blockIdx.z
        n = A.shape[2]
        i, j = place // n, place % n
        if i >= n:
            return
        if causal:
            A[b, h, i, j] = 1 / (i + 1) if j <= i else 0
        else:
            A[b, h, i, j] = 1 / n

    return kernel
