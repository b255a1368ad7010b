"""Scan and snap on the CPU: tokens of a sequence are counted, so attention costs M, not length.

With h_l the number of times key l occurs, the attention mass of l is h_l exp(K2[m,l]) over the sum:
exactly (1) and (2), because equal keys have equal scores.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt
from attnlab.kernels.cpu.exp import exp
from attnlab.kernels.cpu.runtime import (
    block,
    fetch_add,
    run_workers,
    single_threaded_blas,
    worker,
)
from attnlab.kernels.cpu.softmax import softmax_row
from attnlab.kernels.cpu.vector import dot

from . import EXHIBIT

SAMPLES = 8  # a tile of samples shares one product with the decoder


@EXHIBIT.path
def loss(
    x: Int[np.ndarray, "batch length"],
    label: Int[np.ndarray, "batch"],
    K1: Float[np.ndarray, "M M"],
    K2: Float[np.ndarray, "M M"],
    *,
    normalize: bool = True,
    attn_include_base_token: bool = False,
    residual: bool = False,
) -> dict[str, np.ndarray]:
    """See the reference."""
    each = scratch.empty(len(x), K1.dtype)
    with single_threaded_blas():
        run_workers(
            sample_losses, x, label, K1, K2, normalize, attn_include_base_token, residual, each,
            np.zeros(1, np.int64), workers=None if x.size + len(x) * K1.size > 2**22 else 1,
        )  # fmt: skip
    return {"loss": np.asarray(each.mean(), K1.dtype)}


@EXHIBIT.path
def train(
    x: Int[np.ndarray, "steps batch length"],
    label: Int[np.ndarray, "steps batch"],
    fact_probs: Float[np.ndarray, "facts M"] | None = None,
    fact_last: Int[np.ndarray, "facts"] | None = None,
    *,
    M: int,
    lr_y: float = 1.0,
    lr_z: float = 1.0,
    momentum: float = 0.9,
    snapshot_steps: list[int] = [],  # noqa: B006 -- never changed
) -> dict[str, np.ndarray | None]:
    """See the reference."""
    dtype = np.dtype(np.float64 if fact_probs is None else fact_probs.dtype)
    steps = len(x)
    losses = scratch.empty(steps, dtype)
    kept = scratch.empty((2, len(snapshot_steps), M, M), dtype)
    K = np.zeros((2, M, M), dtype)
    rates = np.array([lr_y, lr_z, 1, momentum], dtype)
    with single_threaded_blas():
        sgd(x, label, rates, np.array(snapshot_steps, np.int64), losses, kept, K)
    return {
        "losses": losses,
        "K1_snapshots": kept[0],
        "K2_snapshots": kept[1],
        "c": None if fact_probs is None else tilted(fact_probs, K[1][fact_last]),
    }


@EXHIBIT.path
def population_train(
    fact_probs: Float[np.ndarray, "facts M"],
    fact_last: Int[np.ndarray, "facts"],
    fact_next: Int[np.ndarray, "facts"],
    *,
    eta_y: float = 1.0,
    eta_z: float = 1.0,
    steps: int,
) -> dict[str, np.ndarray]:
    """See the reference."""
    F, M = fact_probs.shape
    Y, Z = np.zeros((2, M, M), fact_probs.dtype)
    history = scratch.empty((steps, F, M), fact_probs.dtype)
    losses = np.zeros(steps, fact_probs.dtype)
    rates = np.array([eta_y / F, 1, eta_z / F], fact_probs.dtype)
    with single_threaded_blas():
        ascend(fact_probs, fact_last, fact_next, rates, Y, Z, history, losses)
    return {"Y": Y, "Z": Z, "c_history": history, "losses": losses}


def tilted(
    P: Float[np.ndarray, "facts M"], z: Float[np.ndarray, "facts M"]
) -> Float[np.ndarray, "facts M"]:
    """(6): P exp(z) / sum, by rows."""
    c = P * np.exp(z - z.max(axis=1, keepdims=True))
    return c / c.sum(axis=1, keepdims=True)


@block
def mix(keys, z, u):
    """u (M,) <- attention mass of each token among the keys, scores z (M,)."""
    zero = z.dtype.type(0)
    u[:] = zero
    for i in range(keys.size):
        u[keys[i]] += z.dtype.type(1)
    largest = z.dtype.type(-np.inf)
    for l in range(u.size):
        if u[l] > zero:
            largest = max(largest, z[l])
    total = zero
    for l in range(u.size):
        e = u[l] * exp(min(z[l] - largest, zero))  # absent tokens: 0 times at most 1
        u[l] = e
        total += e
    scale(u, z.dtype.type(1) / total)


@block
def scale(row, factor):
    for l in range(row.size):
        row[l] *= factor


@block
def through_norm(f, norm, w):
    """w <- (I - f f^T) w / norm: back through f = u / ||u||."""
    along = dot(f, w)
    for l in range(w.size):
        w[l] = (w[l] - f[l] * along) / norm


@worker
def sample_losses(x, label, K1, K2, normalize, include_base, residual, each, counter):
    """each (batch,) <- -log alpha[label], (1)-(3); tiles of samples are taken from the counter."""
    M, length = K1.shape[0], x.shape[1]
    f = scratch.tile((SAMPLES, M), K1.dtype)
    logits = scratch.tile((SAMPLES, M), K1.dtype)
    put = np.zeros(2, K1.dtype)
    put[0] = 1
    while True:
        first = fetch_add(counter, SAMPLES)
        if first >= x.shape[0]:
            break
        last = min(first + SAMPLES, x.shape[0])
        for i in range(first, last):
            u, m = f[i - first], x[i, length - 1]
            mix(x[i, : length if include_base else length - 1], K2[m], u)
            if residual:
                u[m] += K1.dtype.type(1)
            if normalize:
                scale(u, K1.dtype.type(1) / np.sqrt(dot(u, u)))
        gemm_nt(put, f[: last - first], K1, logits[: last - first])
        for i in range(first, last):
            row = logits[i - first]
            wanted = row[label[i]]
            each[i] = softmax_row(row) - wanted


@worker
def sgd(x, label, rates, snapshot_steps, losses, kept, K):
    """(1)-(5), step by step. rates: [lr_y, lr_z, 1, momentum]; K (2, M, M): K1 and K2, from 0."""
    steps, batch, length = x.shape
    M = K.shape[1]
    K1, K2 = K[0], K[1]
    v = np.zeros((2, M, M), K.dtype)
    rows = scratch.tile((4, batch, M), K.dtype)
    c, f, g, df = rows[0], rows[1], rows[2], rows[3]
    g_t = scratch.tile((M, batch), K.dtype)
    norm = scratch.tile(batch, K.dtype)
    put = np.zeros(2, K.dtype)
    put[0] = 1
    lr_y, lr_z, momentum = rates[0], rates[1], rates[3]
    share = K.dtype.type(1) / K.dtype.type(batch)
    for step in range(steps):
        for i in range(batch):
            keys = x[step, i, : length - 1]
            mix(keys, K2[x[step, i, length - 1]], c[i])
            norm[i] = np.sqrt(dot(c[i], c[i]))
            for l in range(M):
                f[i, l] = c[i, l] / norm[i]
        gemm_nt(put, f, K1, g)
        J = K.dtype.type(0)
        for i in range(batch):
            n = label[step, i]
            wanted = g[i, n]
            J += softmax_row(g[i]) - wanted
            g[i, n] -= K.dtype.type(1)
            for l in range(M):
                g[i, l] *= share
                g_t[l, i] = g[i, l]
        losses[step] = J * share
        gemm_nn(put, g, K1, df)
        gemm_nn(rates[2:], g_t, f, v[0])  # v1 <- momentum v1 + sum g f^T
        for m in range(M):
            scale(v[1, m], momentum)
        for i in range(batch):
            through_norm(f[i], norm[i], df[i])
            mean = dot(c[i], df[i])
            row = v[1, x[step, i, length - 1]]
            for l in range(M):
                row[l] += c[i, l] * (df[i, l] - mean)
        for m in range(M):
            for l in range(M):
                K1[m, l] -= lr_y * v[0, m, l]
                K2[m, l] -= lr_z * v[1, m, l]
        for s in range(snapshot_steps.size):
            if snapshot_steps[s] == step:
                kept[:, s] = K


@worker
def ascend(P, last, following, rates, Y, Z, history, losses):
    """(6)-(8), step by step. rates: [eta_y / F, 1, eta_z / F]."""
    F, M = P.shape
    rows = scratch.tile((3, F, M), P.dtype)
    f, r, w = rows[0], rows[1], rows[2]
    f_t = scratch.tile((M, F), P.dtype)
    norm = scratch.tile(F, P.dtype)
    put = np.zeros(2, P.dtype)
    put[0] = 1
    one = P.dtype.type(1)
    for step in range(losses.size):
        for i in range(F):
            c, z = history[step, i], Z[last[i]]
            largest, total = z.max(), P.dtype.type(0)
            for l in range(M):
                c[l] = P[i, l] * exp(z[l] - largest)
                total += c[l]
            scale(c, one / total)
            norm[i] = np.sqrt(dot(c, c))
            for l in range(M):
                f[i, l] = c[l] / norm[i]
                f_t[l, i] = f[i, l]
        gemm_nn(put, f, Y, r)
        for i in range(F):
            n = following[i]
            wanted = r[i, n]
            losses[step] += (softmax_row(r[i]) - wanted) / P.dtype.type(F)
            scale(r[i], -one)
            r[i, n] += one  # e_n - alpha
        gemm_nt(put, r, Y, w)
        gemm_nn(rates[:2], f_t, r, Y)  # Y <- Y + eta_y / F sum f r^T
        for i in range(F):
            c = history[step, i]
            through_norm(f[i], norm[i], w[i])
            mean = dot(c, w[i])
            row = Z[last[i]]
            for l in range(M):
                row[l] += rates[2] * c[l] * (w[i, l] - mean)
