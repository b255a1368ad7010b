"""Agreement between explanations on CUDA: one thread an element of the vectors, one block a row of
attention."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.flash import flash
from attnlab.kernels.cuda.flash import weights as attention_weights
from attnlab.kernels.cuda.matmul import linear, matmul
from attnlab.kernels.cuda.reduce import block_most, block_sum
from attnlab.kernels.cuda.reshape import swap
from attnlab.layers.cuda import split_heads

from . import EXHIBIT

CHUNK = 4 if device.simulated() else 128  # rows of a layer in one partial sum of the rollout


@EXHIBIT.path
def agreement(a: Any, b: Any, ks: Any, alphas: Any, *, p: float = 0.5) -> dict[str, Any]:
    """See the reference. Pairs are counted by one thread an element; one thread a result adds up."""
    n, dtype = a.shape[0], a.dtype
    tops, exponents = ks.shape[0] + 1, alphas.shape[0]
    rows, places = device.empty((3, n), np.int64), device.empty((4, n), np.int64)
    dense, first = device.empty((2, n), np.int64), device.empty((2, n), np.int64)
    grid = device.blocks(n)
    _rank_kernel()[grid, THREADS](a, b, rows, places, first)
    _dense_kernel()[grid, THREADS](a, b, first, dense)
    limits = device.empty(tops, np.int64)
    _limits_kernel()[device.blocks(tops), THREADS](a, b, ks, limits)
    counts = device.empty((tops, n, 3), np.int64)
    _top_kernel()[(grid, tops), THREADS](dense, limits, counts)

    scalars = {name: device.empty((), dtype) for name in ("kendall_tau", "spearman_rho")}
    scalars["pearson_r"], undefined = device.empty((), dtype), device.empty((), np.int64)
    made = {
        "weighted_tau": device.empty(exponents, dtype),
        "topk_p05": device.empty(tops - 1, dtype),
        "topk_p10": device.empty(tops - 1, dtype),
        "topk": device.empty(tops - 1, dtype),
        "topk_nonzero": device.empty(2, dtype),
    }
    positions = device.empty((2, n), dtype)
    _position_kernel()[grid, THREADS](rows, places, positions)
    _sum_kernel()[device.blocks(exponents + tops + 3), THREADS](
        a, b, rows, places, positions, alphas, limits, counts, p,
        *scalars.values(), *made.values(), undefined,
    )  # fmt: skip
    best = np.flatnonzero(dense.copy_to_host()[0] < 3)  # how many there are, the host must know
    return scalars | made | {
        "bucket_order_a": positions[0],
        "top3_a": cuda.to_device(best),
        "undefined": undefined,
    }  # fmt: skip


@cache
def _rank_kernel() -> Any:
    @cuda.jit
    def kernel(a, b, rows, places, first):
        """Of element i: sums over all others of sign products and differences, elements above it in
        a and in b, its lexicographic ranks by (a, b) and (b, a), and whether it opens its bucket."""
        i = cuda.grid(1)
        if i >= a.size:
            return
        x, y = a[i], b[i]
        product = in_a = in_b = above_a = above_b = by_a = by_b = 0
        opens_a = opens_b = 1
        for j in range(a.size):
            over_a, over_b = int(a[j] > x), int(b[j] > y)
            under_a, under_b = int(a[j] < x), int(b[j] < y)
            product += (over_a - under_a) * (over_b - under_b)
            in_a += over_a + under_a
            in_b += over_b + under_b
            above_a += over_a
            above_b += over_b
            tied_a, tied_b = a[j] == x, b[j] == y
            later = int(j > i)
            by_a += (later if tied_b else over_b) if tied_a else over_a
            by_b += (later if tied_a else over_a) if tied_b else over_b
            if j < i and tied_a:
                opens_a = 0
            if j < i and tied_b:
                opens_b = 0
        rows[0, i], rows[1, i], rows[2, i] = product, in_a, in_b
        places[0, i], places[1, i], places[2, i], places[3, i] = above_a, above_b, by_a, by_b
        first[0, i], first[1, i] = opens_a, opens_b

    return kernel


@cache
def _dense_kernel() -> Any:
    @cuda.jit
    def kernel(a, b, first, dense):
        """Better buckets than that of element i."""
        i = cuda.grid(1)
        if i >= a.size:
            return
        better_a = better_b = 0
        for j in range(a.size):
            if a[j] > a[i]:
                better_a += first[0, j]
            if b[j] > b[i]:
                better_b += first[1, j]
        dense[0, i], dense[1, i] = better_a, better_b

    return kernel


@cache
def _limits_kernel() -> Any:
    @cuda.jit
    def kernel(a, b, ks, limits):
        """The sizes k of all top-k comparisons: ks, then the smaller count of non-zeros."""
        c = cuda.grid(1)
        if c < ks.size:
            limits[c] = ks[c]
        elif c == ks.size:
            in_a = in_b = 0
            for j in range(a.size):
                in_a += int(a[j] != 0)
                in_b += int(b[j] != 0)
            limits[c] = in_a if in_a < in_b else in_b

    return kernel


@cache
def _top_kernel() -> Any:
    @cuda.jit
    def kernel(dense, limits, counts):
        """(11) for element i and the elements before it: opposite, tied in one, all pairs."""
        i, c = cuda.grid(1), cuda.blockIdx.y
        if i >= dense.shape[1]:
            return
        k, x, y = limits[c], dense[0, i], dense[1, i]
        opposite = tied = pairs = 0
        for j in range(i):
            u, v = dense[0, j], dense[1, j]
            if (x < k and v < k) or (y < k and u < k):
                pairs += 1
                if (u < x and v > y) or (u > x and v < y):
                    opposite += 1
                elif (u == x) != (v == y):
                    tied += 1
        counts[c, i, 0], counts[c, i, 1], counts[c, i, 2] = opposite, tied, pairs

    return kernel


@cache
def _position_kernel() -> Any:
    @cuda.jit
    def kernel(rows, places, positions):
        i = cuda.grid(1)
        n = rows.shape[1]
        if i < n:
            for which in range(2):
                ties = n - rows[1 + which, i]  # the element itself included
                positions[which, i] = places[which, i] + (ties + 1) / 2

    return kernel


@cuda.jit(device=True)
def _pearson(x, y):
    """The product-moment correlation of two rows in float64; 0/0 where one is constant is NaN."""
    n = x.size
    mean_x = mean_y = 0.0
    for j in range(n):
        mean_x += x[j]
        mean_y += y[j]
    mean_x /= n
    mean_y /= n
    xy = xx = yy = 0.0
    for j in range(n):
        u, v = x[j] - mean_x, y[j] - mean_y
        xy += u * v
        xx += u * u
        yy += v * v
    return xy / math.sqrt(xx * yy)


@cuda.jit(device=True)
def _ratio(rows, rank, alpha):
    """(12) by one lexicographic rank; alpha = 0 weighs all pairs alike, which is (1)."""
    balance = in_a = in_b = 0.0
    for j in range(rank.size):
        w = (1.0 + rank[j]) ** -alpha
        balance += w * rows[0, j]
        in_a += w * rows[1, j]
        in_b += w * rows[2, j]
    return balance / math.sqrt(in_a * in_b) if in_a > 0 and in_b > 0 else math.nan


@cache
def _sum_kernel() -> Any:
    @cuda.jit
    def kernel(
        a, b, rows, places, positions, alphas, limits, counts, p,
        kendall, spearman, pearson, weighted, top05, top10, top, nonzero, undefined,
    ):  # fmt: skip
        """One thread a result: it adds up over the elements, in order."""
        q = cuda.grid(1)
        n = a.size
        in_a = in_b = 0
        for j in range(n):
            in_a += rows[1, j]
            in_b += rows[2, j]
        constant = in_a == 0 or in_b == 0
        if q == 0:
            kendall[()] = _ratio(rows, places[2], 0.0)
            undefined[()] = int(in_a == 0) + int(in_b == 0)
        elif q == 1:
            spearman[()] = math.nan if constant else _pearson(positions[0], positions[1])
        elif q == 2:
            pearson[()] = math.nan if constant else _pearson(a, b)
        elif q < 3 + alphas.size:
            alpha = float(alphas[q - 3])
            by_a, by_b = _ratio(rows, places[2], alpha), _ratio(rows, places[3], alpha)
            weighted[q - 3] = (by_a + by_b) / 2
        elif q < 3 + alphas.size + limits.size:
            c = q - 3 - alphas.size
            opposite = tied = pairs = 0
            for j in range(n):
                opposite += counts[c, j, 0]
                tied += counts[c, j, 1]
                pairs += counts[c, j, 2]
            under = pairs if pairs > 0 else 1
            if c < top.size:
                top05[c] = 1 - 2 * (opposite + 0.5 * tied) / under
                top10[c] = 1 - 2 * (opposite + 1.0 * tied) / under
                top[c] = 1 - 2 * (opposite + p * tied) / under
            else:
                nonzero[0] = 1 - 2 * (opposite + 0.5 * tied) / under
                nonzero[1] = limits[c]

    return kernel


@EXHIBIT.path
def aggregate_attention(attention: Any) -> dict[str, Any]:
    """See the reference. A row vector goes down the layers: its rows' scales, then partial sums."""
    batch, layers, _, n, _ = attention.shape
    dtype = np.dtype(attention.dtype)
    avg = device.empty((batch, n), dtype)
    _strongest_kernel(dtype.name)[(n, batch), THREADS](attention, avg)
    scale, row = device.empty((batch, n), dtype), device.empty((batch, n), dtype)
    partial = device.empty((batch, device.blocks(n, CHUNK), n), dtype)
    for layer in reversed(range(layers)):
        top = layer == layers - 1  # only the row of token 0 counts there
        _scale_kernel(dtype.name)[(n, batch), THREADS](attention, layer, row, top, scale)
        chunks = 1 if top else partial.shape[1]
        grid = device.blocks(n)
        _down_kernel()[(grid, chunks, batch), THREADS](attention, layer, scale, partial)
        row = device.empty((batch, n), dtype)
        _gather_kernel()[(grid, batch), THREADS](partial, chunks, row)
    return {"avg": avg, "rollout_cls": row}


@cache
def _strongest_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(attention, out):
        """One block a query: the largest over keys of the sum over layers and heads."""
        best = cuda.shared.array(THREADS, kind)
        j, b, thread = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
        layers, heads, n = attention.shape[1], attention.shape[2], attention.shape[3]
        mine = kind(0)  # weights are not negative
        for k in range(thread, n, THREADS):
            total = kind(0)
            for layer in range(layers):
                for h in range(heads):
                    total += attention[b, layer, h, j, k]
            mine = total if total > mine else mine
        mine = block_most(mine, best)
        if thread == 0:
            out[b, j] = mine / kind(layers * heads)

    return kernel


@cache
def _scale_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(attention, layer, row, top, scale):
        """scale[j] = row[j] / (1 + sum_k mean_h attention[j, k]); at the top the row is token 0's."""
        sums = cuda.shared.array(THREADS, kind)
        j, b, thread = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
        heads, n = attention.shape[2], attention.shape[3]
        total = scale.dtype.type(0)
        if not top or j == 0:
            for h in range(heads):
                for k in range(thread, n, THREADS):
                    total += attention[b, layer, h, j, k]
        total = block_sum(total, sums)
        if thread == 0:
            weight = scale.dtype.type(1 if j == 0 else 0) if top else row[b, j]
            scale[b, j] = weight / (kind(1) + total / kind(heads))

    return kernel


@cache
def _down_kernel() -> Any:
    @cuda.jit
    def kernel(attention, layer, scale, partial):
        """Rows c CHUNK … of the layer, scaled and added: neighbouring threads read neighbouring keys."""
        k, c, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
        heads, n = attention.shape[2], attention.shape[3]
        if k >= n:
            return
        total = scale.dtype.type(0)
        for j in range(c * CHUNK, (c + 1) * CHUNK):
            if j < n and scale[b, j] != 0:
                mean = scale.dtype.type(0)
                for h in range(heads):
                    mean += attention[b, layer, h, j, k]
                total += scale[b, j] * (mean / scale.dtype.type(heads))
                if j == k:
                    total += scale[b, j]
        partial[b, c, k] = total

    return kernel


@cache
def _gather_kernel() -> Any:
    @cuda.jit
    def kernel(partial, chunks, row):
        k, b = cuda.grid(1), cuda.blockIdx.y
        if k < row.shape[1]:
            total = partial[b, 0, k]
            for c in range(1, chunks):
                total += partial[b, c, k]
            row[b, k] = total

    return kernel


@EXHIBIT.path
def self_attend(
    x: Any,
    mask: Any = None,
    *,
    n_heads: int,
    projection: str = "released",
    want: frozenset[str] = frozenset(),
    **lin: Any,
) -> dict[str, Any]:
    """See the reference. Weights and norms, n x n of them, are stored only when asked for."""
    batch, n, wide = x.shape
    dim, released = wide // n_heads, projection == "released"
    W, bias = lin["out_lin_weight"], lin["out_lin_bias"]
    q, k, v = (linear(x, lin[f"{name}_lin_weight"], lin[f"{name}_lin_bias"]) for name in "qkv")
    if released:
        v = matmul(v, W.reshape(1, wide, wide))
    q, k, values = (split_heads(y, n_heads, dim) for y in (q, k, v))
    hooks = {
        "scale": dim**-0.5,
        "mask": None if mask is None else mask.reshape(batch, 1, 1, n),
    }
    written, lse = flash(q, k, values, **hooks)
    context = device.empty((batch, n, wide), x.dtype)
    nothing = device.empty(0, x.dtype)
    _merge_kernel()[device.blocks(context.size), THREADS](
        written, bias if released else nothing, context
    )
    if not released:
        context = linear(context, W, bias)
    weights: Any = None
    norms: Any = None
    if want & {"weights", "norms"}:
        weights = attention_weights(q, k, lse, **hooks)
    if "norms" in want:
        F = values
        if not released:  # (batch heads, n, wide), head h times its columns of W
            columns = swap(W.reshape(wide, n_heads, dim))  # (heads, wide, dim)
            flat = matmul(values.reshape(batch * n_heads, n, dim), columns, transposed=True)
            F = flat.reshape(batch, n_heads, n, wide)
        norms = device.empty(weights.shape, x.dtype)
        _norm_kernel()[(n, n_heads, batch), THREADS](F, weights, norms)
    return {"context": context, "weights": weights, "norms": norms}


@cache
def _merge_kernel() -> Any:
    @cuda.jit
    def kernel(heads, bias, out):
        """(batch, heads, n, dim) -> (batch, n, heads dim), the bias added where there is one."""
        item = cuda.grid(1)
        if item >= out.size:
            return
        n, wide, dim = out.shape[1], out.shape[2], heads.shape[3]
        column, t, b = item % wide, item // wide % n, item // wide // n
        value = heads[b, column // dim, t, column % dim]
        out[b, t, column] = value + bias[column] if bias.size else value

    return kernel


@cache
def _norm_kernel() -> Any:
    @cuda.jit
    def kernel(F, weights, norms):
        """One block a query, one thread a key: weight times the length of the key's F."""
        i, h, b = cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        for k in range(cuda.threadIdx.x, F.shape[2], THREADS):
            square = F[b, h, k, 0] * F[b, h, k, 0]
            for c in range(1, F.shape[3]):
                square += F[b, h, k, c] * F[b, h, k, c]
            norms[b, h, i, k] = weights[b, h, i, k] * math.sqrt(square)

    return kernel
