"""BASED on the CPU: the Taylor map made chunk by chunk and never stored, the window by tiled attention."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.exp import sigmoid
from attnlab.kernels.cpu.flash import flash_attention
from attnlab.kernels.cpu.product import linear
from attnlab.kernels.cpu.runtime import (
    block,
    fetch_add,
    run_workers,
    single_threaded_blas,
    threads,
    worker,
)
from attnlab.layers.rotary import rotate_halves, tables

from . import EXHIBIT

CHUNK = 64
SLICE = 16  # value columns that are worth a thread of their own
ROWS = 64  # rows of a piece of work in the elementwise passes


@EXHIBIT.path
def taylor_linear_attention(
    x: Float[np.ndarray, "batch n dim"],
    w_q: Float[np.ndarray, "num_heads*feature_dim dim"],
    w_k: Float[np.ndarray, "num_heads*feature_dim dim"],
    w_v: Float[np.ndarray, "num_heads*head_dim dim"],
    w_o: Float[np.ndarray, "dim num_heads*head_dim"],
    x_next: Float[np.ndarray, "batch steps dim"] | None = None,
    *,
    num_heads: int,
    eps: float = 1e-12,
) -> dict[str, np.ndarray]:
    """See the reference. Linear in n: within a chunk the polynomial, before it the packed state (5)."""
    heads = (*x.shape[:2], num_heads, -1)
    q, k, v = (linear(x, w).reshape(heads) for w in (w_q, w_k, w_v))  # (batch, n, num_heads, ·)
    o, S, z = taylor_scan(q, k, v, eps)
    KV, k_state = unpack(S, q.shape[3]).swapaxes(2, 3), unpack(z[..., None], q.shape[3])[..., 0]
    out = {"y": linear(o.reshape(*x.shape[:2], -1), w_o), "kv_state": KV, "k_state": k_state}
    out |= {"q": q.swapaxes(1, 2), "k": k.swapaxes(1, 2), "v": v.swapaxes(1, 2)}
    if x_next is not None:
        heads = (*x_next.shape[:2], num_heads, -1)
        q, k, v = (linear(x_next, w).reshape(heads) for w in (w_q, w_k, w_v))
        phi_q, phi_k = taylor_map(q), taylor_map(k)
        o = np.empty_like(v)
        for t in range(x_next.shape[1]):  # (4)
            KV = KV + v[:, t, :, :, None] * phi_k[:, t, :, None]
            k_state = k_state + phi_k[:, t]
            below = (k_state * phi_q[:, t]).sum(-1, keepdims=True) + x.dtype.type(eps)
            o[:, t] = (KV @ phi_q[:, t, :, :, None])[..., 0] / below
        out["y_next"] = linear(o.reshape(*x_next.shape[:2], -1), w_o)
    return out


def taylor_scan(
    q: Float[np.ndarray, "batch n heads d"],
    k: Float[np.ndarray, "batch n heads d"],
    v: Float[np.ndarray, "batch n heads e"],
    eps: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equation (3) over (batch, n, heads, ·), and the packed states S (…, P, e) and z (…, P)."""
    batch, _, heads, d = q.shape
    e, P = v.shape[3], 1 + d + d * (d + 1) // 2
    o = scratch.empty(v.shape, q.dtype)
    S = np.zeros((batch, heads, P, e), q.dtype)
    z = scratch.empty((batch, heads, P), q.dtype)
    workers = None if v.size * (P + CHUNK) > 2**20 else 1
    slices = -(-threads() // (batch * heads)) if workers is None else 1
    width = min(e, max(SLICE, -(-e // slices)))
    scalars = np.array([d**-0.25, eps], q.dtype)
    with single_threaded_blas():
        counter = np.zeros(1, np.int64)
        run_workers(scan_heads, q, k, v, scalars, width, o, S, z, counter, workers=workers)
    return o, S, z


def unpack(S: Float[np.ndarray, "*heads P e"], d: int) -> Float[np.ndarray, "*heads 1+d+d**2 e"]:
    """The kernel's state over the packed map as the state over phi.

    The kernel's map holds x_i^2 / 2 and x_i x_j (i > j) of x / d^(1/4); phi holds all over sqrt(2).
    """
    i, j = np.tril_indices(d)
    packed = np.zeros((d, d), np.int64)
    packed[i, j] = packed[j, i] = np.arange(1 + d, 1 + d + len(i))
    share = np.full((d, d), 0.5**0.5)
    np.fill_diagonal(share, 2**0.5)
    pairs = S[..., packed.ravel(), :] * share.ravel()[:, None].astype(S.dtype)
    return np.concatenate([S[..., : 1 + d, :], pairs], axis=-2)


def taylor_map(x: Float[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows 1+d+d**2"]:
    """phi(x) of equation (1)."""
    d = x.shape[-1]
    pairs = (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], d * d)
    return np.concatenate([np.ones_like(x[..., :1]), x / d**0.25, pairs / (2 * d) ** 0.5], axis=-1)


@block
def query_features(x, phi):
    """phi (rows, P) <- [1, x, x_i x_j for j <= i], x (rows, d).

    Each run of products is written d long, which vectorises; the next one overwrites what is too much.
    """
    d = x.shape[1]
    for t in range(x.shape[0]):
        source, row = x[t], phi[t]
        row[0] = 1
        for i in range(d):
            row[1 + i] = source[i]
        at = 1 + d
        for i in range(d):
            run, factor = row[at : at + d], source[i]
            for j in range(d if at + d <= row.size else i + 1):
                run[j] = factor * source[j]
            at += i + 1


@block
def key_features(x, phi):
    """phi (P, rows) <- [1, x, x_i x_j for j < i and x_i^2 / 2], x (d, rows)."""
    d, rows = x.shape
    for t in range(rows):
        phi[0, t] = 1
    at = 1 + d
    for i in range(d):
        for t in range(rows):
            phi[1 + i, t] = x[i, t]
        for j in range(i + 1):
            half = x.dtype.type(0.5 if i == j else 1.0)
            run = phi[at + j]
            for t in range(rows):
                run[t] = x[i, t] * x[j, t] * half
        at += i + 1


@worker
def scan_heads(q, k, v, scalars, width, o, S, z, counter):
    """One worker's share of `taylor_scan`: slices of `width` value columns of one head."""
    batch, n, heads, d = q.shape
    e, P = v.shape[3], S.shape[2]
    slices = (e + width - 1) // width
    scale, eps = scalars[0], scalars[1]
    one, half = q.dtype.type(1), q.dtype.type(0.5)  # a bare 1 would make float32 sums float64
    Q, K = scratch.tile((CHUNK, d), q.dtype), scratch.tile((d, CHUNK), q.dtype)
    phi_q, phi_k = scratch.tile((CHUNK, P), q.dtype), scratch.tile((P, CHUNK), q.dtype)
    weights = scratch.tile((CHUNK, CHUNK), q.dtype)
    total = scratch.tile(P, q.dtype)  # z of this head
    put, add = np.zeros(2, q.dtype), np.ones(2, q.dtype)
    put[0] = 1
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads * slices:
            break
        b, h = item // slices // heads, item // slices % heads
        e0 = item % slices * width
        e1 = min(e0 + width, e)
        state = S[b, h, :, e0:e1]
        for p in range(P):
            total[p] = 0
        for start in range(0, n, CHUNK):
            m = min(CHUNK, n - start)
            V, O = v[b, start : start + m, h, e0:e1], o[b, start : start + m, h, e0:e1]
            for t in range(m):
                for c in range(d):
                    Q[t, c] = q[b, start + t, h, c] * scale
                    K[c, t] = k[b, start + t, h, c] * scale
            a = weights[:m, :m]
            gemm_nn(put, Q[:m], K[:, :m], a)
            for i in range(m):
                row = a[i]
                for j in range(i + 1):
                    row[j] = one + row[j] + row[j] * row[j] * half
                for j in range(i + 1, m):
                    row[j] = 0
            gemm_nn(put, a, V, O)
            if start > 0:
                query_features(Q[:m], phi_q)
                gemm_nn(add, phi_q[:m], state, O)
            for i in range(m):
                below = eps
                for j in range(i + 1):
                    below += a[i, j]
                if start > 0:
                    for p in range(P):
                        below += phi_q[i, p] * total[p]
                share = one / below
                for c in range(e1 - e0):
                    O[i, c] *= share
            key_features(K[:, :m], phi_k)
            gemm_nn(add, phi_k[:, :m], V, state)
            for p in range(P):
                added = q.dtype.type(0)
                for t in range(m):
                    added += phi_k[p, t]
                total[p] += added
        if e0 == 0:
            for p in range(P):
                z[b, h, p] = total[p]


@EXHIBIT.path
def sliding_window_attention(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n dim"],
    *,
    left: int,
    rope: bool = False,
    rope_base: float = 10000.0,
    scale: float | None = None,
) -> dict[str, np.ndarray]:
    """See the reference."""
    n, dim = q.shape[2:]
    if rope:
        cos, sin = tables(np.arange(n), dim, rope_base)
        q, k = rotate_halves(q, cos, sin), rotate_halves(k, cos, sin)
    return {"o": flash_attention(q, k, v, scale=scale, causal=True, left=min(left, n)).out}


@EXHIBIT.path
def base_conv(
    x: Float[np.ndarray, "batch n dim"],
    w_in: Float[np.ndarray, "2*inner dim"],
    b_in: Float[np.ndarray, "2*inner"],
    w_conv: Float[np.ndarray, "inner 1 kernel"],
    w_out: Float[np.ndarray, "dim inner"],
    b_out: Float[np.ndarray, "dim"],
) -> dict[str, np.ndarray]:
    """See the reference. Bias, convolution, silu and gate are one pass between the two products."""
    u = linear(x, w_in)
    opened = scratch.empty((*x.shape[:2], w_out.shape[1]), x.dtype)
    taps = np.ascontiguousarray(w_conv[:, 0].T)  # (kernel, inner)
    run_workers(convolve_rows, u, b_in, taps, opened, np.zeros(1, np.int64))
    y = linear(opened, w_out)
    y += b_out
    return {"y": y}


@worker
def convolve_rows(u, b_in, taps, out, counter):
    """One worker's share of out = silu(conv(u1 + b1)) * (u2 + b2), u (batch, n, 2*inner)."""
    batch, n, inner = out.shape
    K = taps.shape[0]
    tiles = (n + ROWS - 1) // ROWS
    b1, b2 = b_in[:inner], b_in[inner:]
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * tiles:
            break
        b, start = item // tiles, item % tiles * ROWS
        for t in range(start, min(start + ROWS, n)):
            c, gate = out[b, t], u[b, t, inner:]
            for j in range(inner):
                c[j] = 0
            for r in range(max(0, K - 1 - t), K):  # u1 is 0 before the sequence
                u1, tap = u[b, t - K + 1 + r], taps[r]
                for j in range(inner):
                    c[j] += tap[j] * (u1[j] + b1[j])
            for j in range(inner):
                c[j] = c[j] * sigmoid(c[j]) * (gate[j] + b2[j])


@EXHIBIT.path
def feature_map(x: Float[np.ndarray, "rows feature_dim"]) -> dict[str, np.ndarray]:
    """See the reference."""
    rows, d = x.shape
    phi = scratch.empty((rows, 1 + d + d * d), x.dtype)
    packed = scratch.empty((rows, 1 + d + d * (d + 1) // 2), x.dtype)
    scalars = np.array([d**-0.25, (2 * d) ** -0.5, d**-0.5, 2**-0.5 / d, 1 / d], x.dtype)
    workers = None if phi.size > 2**16 else 1
    run_workers(map_rows, x, scalars, phi, packed, np.zeros(1, np.int64), workers=workers)
    return {"phi": phi, "phi_packed": packed}


@worker
def map_rows(x, scalars, phi, packed, counter):
    """One worker's share of `feature_map`."""
    rows, d = x.shape
    while True:
        start = fetch_add(counter, ROWS)
        if start >= rows:
            break
        for t in range(start, min(start + ROWS, rows)):
            source, full, pairs = x[t], phi[t], packed[t]
            full[0] = 1
            pairs[0] = 1
            for i in range(d):
                full[1 + i] = source[i] * scalars[0]
                pairs[1 + i] = source[i] * scalars[2]
                pairs[1 + d + i] = source[i] * source[i] * scalars[3]
            at = 1 + 2 * d
            for i in range(d):
                factor, row = source[i] * scalars[1], full[1 + (i + 1) * d : 1 + (i + 2) * d]
                for j in range(d):
                    row[j] = factor * source[j]
                factor, run = source[i] * scalars[4], pairs[at : at + i]
                for j in range(i):
                    run[j] = factor * source[j]
                at += i
