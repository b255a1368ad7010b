"""Causal linear attention in chunks, with a decay per head: o_t = sum_{j<=t} lambda^(t-j) (q_t.k_j) v_j.

A worker walks along one head and carries the state KV (dim x dim_v); inside a chunk it multiplies
queries with keys and masks. Columns of v do not meet each other, so where there are fewer heads than
threads the heads are cut into slices of columns. Keys are transposed chunk by chunk: all products are
then A B on small tiles, for which the BLAS has a routine without packing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.runtime import (
    contiguous,
    fetch_add,
    run_workers,
    single_threaded_blas,
    threads,
    worker,
)

LARGEST_CHUNK = 256  # longer chunks leave the cache and gain nothing
SLICE = 16  # columns of v that are worth a thread of their own


class Scanned(NamedTuple):
    o: Float[np.ndarray, "batch heads n dim_v"]
    state: Float[np.ndarray, "batch heads dim dim_v"]


@worker
def scan_heads(q, k, v, fade, chunk, width, o, state, counter):
    """One worker's share of `linear_scan`: slices of `width` columns, taken from the counter.

    fade (heads, chunk + 1): powers of lambda. state begins at 0.
    """
    batch, heads, n, dim = q.shape
    slices = (v.shape[3] + width - 1) // width
    decay = scratch.tile((chunk, chunk), q.dtype)
    scores = scratch.tile((chunk, chunk), q.dtype)
    keys = scratch.tile((dim, chunk), q.dtype)  # K^T of a chunk
    faded = scratch.tile((chunk, dim), q.dtype)
    put, add = np.zeros(2, q.dtype), np.ones(2, q.dtype)
    put[0] = 1
    carry = np.ones(2, q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads * slices:
            break
        b, h = item // slices // heads, item // slices % heads
        e0 = item % slices * width
        e1 = min(e0 + width, v.shape[3])
        power = fade[h]
        for i in range(chunk):
            for j in range(i + 1):
                decay[i, j] = power[i - j]
        KV = state[b, h, :, e0:e1]
        for start in range(0, n, chunk):
            m = min(chunk, n - start)
            Q, K = q[b, h, start : start + m], k[b, h, start : start + m]
            V, O = v[b, h, start : start + m, e0:e1], o[b, h, start : start + m, e0:e1]
            for c in range(dim):
                row = keys[c]
                for j in range(m):
                    row[j] = K[j, c]

            s = scores[:m, :m]
            gemm_nn(put, Q, keys[:, :m], s)
            for i in range(m):
                row, lag = s[i], decay[i]
                for j in range(i + 1):
                    row[j] *= lag[j]
                for j in range(i + 1, m):
                    row[j] = 0
            gemm_nn(put, s, V, O)  # within the chunk
            if start > 0:
                for i in range(m):
                    row, source, factor = faded[i], Q[i], power[i + 1]
                    for c in range(dim):
                        row[c] = source[c] * factor
                gemm_nn(add, faded[:m], KV, O)  # everything before it

            for c in range(dim):  # what is left of each key at the chunk's end
                row = keys[c]
                for j in range(m):
                    row[j] *= power[m - 1 - j]
            carry[1] = power[m]
            gemm_nn(carry, keys[:, :m], V, KV)


def linear_scan(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n dim_v"],
    slopes: Float[np.ndarray, "heads"] | None = None,
    chunk: int = 64,
) -> Scanned:
    """o_t = sum_{j<=t} lambda^(t-j) (q_t . k_j) v_j with lambda = exp(-slopes), and the last state.

    No scale and no denominator. chunk, at least 1, is how many rows are handled at once (at most
    LARGEST_CHUNK); it changes the order of sums only. float32 or float64, as q.
    """
    q = contiguous(q)
    k, v = contiguous(k, q.dtype), contiguous(v, q.dtype)
    batch, heads, n, dim = q.shape
    dim_v = v.shape[3]
    chunk = max(1, min(chunk, n, LARGEST_CHUNK))
    s = np.zeros(heads) if slopes is None else np.asarray(slopes, np.float64)
    with np.errstate(over="ignore"):
        fade = np.exp(-np.multiply.outer(s, np.arange(chunk + 1))).astype(q.dtype)
    o = scratch.empty(v.shape, q.dtype)
    state = np.zeros((batch, heads, dim, dim_v), q.dtype)
    workers = None if v.size * (dim + chunk) > 2**20 else 1  # starting a thread takes about 50 µs
    slices = -(-threads() // max(1, batch * heads)) if workers is None else 1
    width = max(1, min(dim_v, max(SLICE, -(-dim_v // slices))))
    with single_threaded_blas():
        counter = np.zeros(1, np.int64)
        run_workers(scan_heads, q, k, v, fade, chunk, width, o, state, counter, workers=workers)
    return Scanned(o, state)
