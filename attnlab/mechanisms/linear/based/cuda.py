"""BASED on CUDA: the Taylor map inside the segmented scan, the window in tiled attention."""

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
from attnlab.kernels.cuda.matmul import linear
from attnlab.kernels.cuda.scan import scan
from attnlab.layers.cuda import sigmoid, split_heads

from . import EXHIBIT


@EXHIBIT.path
def taylor_linear_attention(
    x: Any,
    w_q: Any,
    w_k: Any,
    w_v: Any,
    w_o: Any,
    x_next: Any = None,
    *,
    num_heads: int,
    eps: float = 1e-12,
) -> dict[str, Any]:
    """See the reference. Linear in n."""
    q, k, v = _project(x, (w_q, w_k, w_v), num_heads)
    sums, packed = scan(q, k, v, taylor=True)
    KV, z = _unpack(packed, q.shape[3])
    out = {"y": _divide(sums, eps, w_o), "q": q, "k": k, "v": v, "kv_state": KV, "k_state": z}
    if x_next is not None:
        q, k, v = _project(x_next, (w_q, w_k, w_v), num_heads)
        batch, heads, steps, head_dim = v.shape
        sums = device.empty((batch, heads, steps, head_dim + 1), v.dtype)
        running = device.empty((batch, heads, head_dim + 1, z.shape[2]), v.dtype)
        grid = device.blocks(batch * heads * (head_dim + 1))
        _decode(np.dtype(v.dtype).name)[grid, THREADS](q, k, v, KV, z, running, sums)
        out["y_next"] = _divide(sums, eps, w_o)
    return out


def _project(x: Any, weights: tuple[Any, ...], heads: int) -> list[Any]:
    """(batch, heads, n, ·) for each weight."""
    return [split_heads(linear(x, w), heads, w.shape[0] // heads) for w in weights]


def _divide(sums: Any, eps: float, w_o: Any) -> Any:
    """The first columns over the last one plus eps, heads merged, times w_o^T."""
    batch, heads, n, columns = sums.shape
    merged = device.empty((batch, n, heads * (columns - 1)), sums.dtype)
    scalar = np.dtype(sums.dtype).type(eps)
    _merge_quotients()[device.blocks(merged.size), THREADS](sums, scalar, merged)
    return linear(merged, w_o)


@cache
def _merge_quotients() -> Any:
    @cuda.jit
    def kernel(sums, eps, out):
        batch, heads, n, columns = sums.shape
        e = columns - 1
        item = cuda.grid(1)
        if item < batch * n * heads * e:
            c, h = item % e, item // e % heads
            t, b = item // e // heads % n, item // e // heads // n
            out[b, t, h * e + c] = sums[b, h, t, c] / (sums[b, h, t, e] + eps)

    return kernel


def _unpack(packed: Any, d: int) -> tuple[Any, Any]:
    """kv_state (…, e, D') and k_state (…, D') from the scan's state (…, P, e + 1)."""
    i, j = np.tril_indices(d)
    where, share = np.arange(1 + d + d * d), np.ones(1 + d + d * d)
    square = np.zeros((d, d), np.int64)
    square[i, j] = square[j, i] = np.arange(1 + d, 1 + d + len(i))
    where[1 + d :] = square.ravel()
    share[1 + d :] = np.where(np.eye(d, dtype=bool), 1, 0.5**0.5).ravel()  # each pair twice
    batch, heads, _, columns = packed.shape
    KV = device.empty((batch, heads, columns - 1, len(where)), packed.dtype)
    z = device.empty((batch, heads, len(where)), packed.dtype)
    table = cuda.to_device(where), cuda.to_device(share.astype(packed.dtype))
    grid = device.blocks(batch * heads * columns * len(where))
    _unpack_kernel()[grid, THREADS](packed, *table, KV, z)
    return KV, z


@cache
def _unpack_kernel() -> Any:
    @cuda.jit
    def kernel(packed, where, share, KV, z):
        batch, heads, _, columns = packed.shape
        wide = where.size
        item = cuda.grid(1)
        if item < batch * heads * columns * wide:
            p, e = item % wide, item // wide % columns
            h, b = item // wide // columns % heads, item // wide // columns // heads
            value = packed[b, h, where[p], e] * share[p]
            if e < columns - 1:
                KV[b, h, e, p] = value
            else:
                z[b, h, p] = value

    return kernel


@cache
def _decode(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(q, k, v, KV, z, running, sums):
        """The recurrence (4); one thread a row of the state, the last row the denominator's."""
        batch, heads, steps, columns = sums.shape
        d = q.shape[3]
        item = cuda.grid(1)
        if item >= batch * heads * columns:
            return
        e, h, b = item % columns, item // columns % heads, item // columns // heads
        state = running[b, h, e]
        for p in range(state.size):
            state[p] = KV[b, h, e, p] if e < columns - 1 else z[b, h, p]
        root = kind(1) / math.sqrt(kind(d))  # of the pairs, without sqrt(2)
        for t in range(steps):
            value = v[b, h, t, e] if e < columns - 1 else kind(1)
            state[0] += value
            total = state[0]
            for i in range(d):
                state[1 + i] += value * k[b, h, t, i] * math.sqrt(root)
                total += state[1 + i] * q[b, h, t, i] * math.sqrt(root)
                for j in range(d):
                    share = root / math.sqrt(kind(2))
                    p = 1 + d + i * d + j
                    state[p] += value * k[b, h, t, i] * k[b, h, t, j] * share
                    total += state[p] * q[b, h, t, i] * q[b, h, t, j] * share
            sums[b, h, t, e] = total

    return kernel


@EXHIBIT.path
def sliding_window_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    left: int,
    rope: bool = False,
    rope_base: float = 10000.0,
    scale: float | None = None,
) -> dict[str, Any]:
    """See the reference."""
    n, dim = q.shape[2], q.shape[3]
    if rope:
        q, k = (_rotate(rows, rope_base) for rows in (q, k))
    scale = dim**-0.5 if scale is None else scale
    return {"o": flash(q, k, v, scale=scale, causal=True, left=min(left, n))[0]}


def _rotate(x: Any, base: float) -> Any:
    out = device.empty(x.shape, x.dtype)
    _rope()[device.blocks(x.size // 2), THREADS](x, float(base), out)
    return out


@cache
def _rope() -> Any:
    @cuda.jit
    def kernel(x, base, out):
        """Rotary positions, halves convention; angles in float64."""
        batch, heads, n, dim = x.shape
        half = dim // 2
        item = cuda.grid(1)
        if item >= batch * heads * n * half:
            return
        i, t = item % half, item // half % n
        h, b = item // half // n % heads, item // half // n // heads
        angle = t * base ** (-2.0 * i / dim)
        c, s = math.cos(angle), math.sin(angle)
        first, second = x[b, h, t, i], x[b, h, t, half + i]
        out[b, h, t, i] = first * c - second * s
        out[b, h, t, half + i] = first * s + second * c

    return kernel


@EXHIBIT.path
def base_conv(x: Any, w_in: Any, b_in: Any, w_conv: Any, w_out: Any, b_out: Any) -> dict[str, Any]:
    """See the reference."""
    u = linear(x, w_in, b_in)
    opened = device.empty((x.shape[0], x.shape[1], w_out.shape[1]), x.dtype)
    _convolve()[device.blocks(opened.size), THREADS](u, w_conv, opened)
    return {"y": linear(opened, w_out, b_out)}


@cache
def _convolve() -> Any:
    @cuda.jit
    def kernel(u, taps, out):
        """out = silu(conv(u1)) * u2, u (batch, n, 2*inner), taps (inner, 1, K)."""
        batch, n, inner = out.shape
        item = cuda.grid(1)
        if item >= batch * n * inner:
            return
        j, t, b = item % inner, item // inner % n, item // inner // n
        K = taps.shape[2]
        c = u.dtype.type(0)
        for r in range(K):
            if t - K + 1 + r >= 0:
                c += taps[j, 0, r] * u[b, t - K + 1 + r, j]
        out[b, t, j] = c * sigmoid(c) * u[b, t, inner + j]

    return kernel
