"""Pointer networks on CUDA: tiles of scores summed as they are made, one block a sequence's LSTM."""

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

PADDED = TILE + 1  # columns of a shared tile that is read down: no two rows in one memory bank


@cache
def _score_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(K, Q, v, slots, steps, scores):
        keys = cuda.shared.array((TILE, PADDED), kind)  # a tile of slots x units
        queries = cuda.shared.array((TILE, TILE), kind)  # a tile of steps x units
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        hidden = K.shape[2]
        across, down = (scores.shape[2] + TILE - 1) // TILE, (scores.shape[1] + TILE - 1) // TILE
        right, below, b = tiles.block_place(across, down)
        j0, t0 = right * TILE, below * TILE
        total = kind(0)
        for u0 in range(0, hidden, TILE):
            cuda.syncthreads()
            u = u0 + x
            keys[y, x] = K[b, j0 + y, u] if j0 + y < K.shape[1] and u < hidden else tiles.ZERO
            queries[y, x] = Q[b, t0 + y, u] if t0 + y < Q.shape[1] and u < hidden else tiles.ZERO
            cuda.syncthreads()
            for c in range(tiles.least(TILE, hidden - u0)):
                total += v[u0 + c] * math.tanh(keys[x, c] + queries[y, c])
        if t0 + y < scores.shape[1] and j0 + x < scores.shape[2]:
            real = t0 + y < steps[b] and j0 + x < slots[b]
            scores[b, t0 + y, j0 + x] = total if real else tiles.ZERO

    return kernel


@cache
def _softmax_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(scores, slots, steps, target, p, cost):
        """One block a row: p and -log p(target), 0 where padded."""
        partial = cuda.shared.array(THREADS, kind)
        x = cuda.threadIdx.x
        t, b, _ = tiles.block_place(scores.shape[1], scores.shape[0])
        if t >= steps[b]:
            for j in range(x, p.shape[2], THREADS):
                p[b, t, j] = 0
            if x == 0:
                cost[b, t] = 0
            return
        n = slots[b]
        top = scores[b, t, 0]
        for j in range(x, n, THREADS):
            top = tiles.most(top, scores[b, t, j])
        partial[x] = top
        cuda.syncthreads()
        for other in range(THREADS):
            top = tiles.most(top, partial[other])
        cuda.syncthreads()
        total = kind(0)
        for j in range(x, n, THREADS):
            total += math.exp(scores[b, t, j] - top)
        partial[x] = total
        cuda.syncthreads()
        total = kind(0)
        for other in range(THREADS):
            total += partial[other]
        for j in range(x, p.shape[2], THREADS):
            p[b, t, j] = math.exp(scores[b, t, j] - top) / total if j < n else tiles.ZERO
        if x == 0:
            aimed = target[b, t] if target.shape[0] > 0 else 0
            cost[b, t] = top + math.log(total) - scores[b, t, aimed]

    return kernel


@cuda.jit
def _mean(cost, steps, loss):
    """One block: the sum of all costs over the number of real steps."""
    partial = cuda.shared.array(THREADS, numba.float64)
    x, width = cuda.threadIdx.x, cost.shape[1]
    total = 0.0
    for i in range(x, cost.shape[0] * width, THREADS):
        total += cost[i // width, i % width]
    partial[x] = total
    cuda.syncthreads()
    if x == 0:
        count = 0
        for b in range(steps.shape[0]):
            count += steps[b]
        for other in range(1, THREADS):
            total += partial[other]
        loss[()] = total / count


@cuda.jit(device=True)
def sigmoid(z):
    return tiles.ONE / (tiles.ONE + math.exp(-z))


@cuda.jit
def _lstm(x, lengths, W_ih, W_hh, b_ih, b_hh, state, states):
    """One block a sequence; its threads share the units. state (batch, 2, hidden): h and c, the
    last ones on return; states (batch, steps, hidden), 0 past each length."""
    b, hidden = cuda.blockIdx.x, state.shape[2]
    for t in range(states.shape[1]):
        for u in range(cuda.threadIdx.x, hidden, THREADS):
            if t >= lengths[b]:
                states[b, t, u] = 0
                continue
            i, f, g, o = u, u + hidden, u + 2 * hidden, u + 3 * hidden
            z_i, z_f, z_g, z_o = (
                b_ih[i] + b_hh[i],
                b_ih[f] + b_hh[f],
                b_ih[g] + b_hh[g],
                b_ih[o] + b_hh[o],
            )
            for d in range(x.shape[2]):
                value = x[b, t, d]
                z_i += W_ih[i, d] * value
                z_f += W_ih[f, d] * value
                z_g += W_ih[g, d] * value
                z_o += W_ih[o, d] * value
            for d in range(hidden):
                value = state[b, 0, d] if t == 0 else states[b, t - 1, d]
                z_i += W_hh[i, d] * value
                z_f += W_hh[f, d] * value
                z_g += W_hh[g, d] * value
                z_o += W_hh[o, d] * value
            c = sigmoid(z_f) * state[b, 1, u] + sigmoid(z_i) * math.tanh(z_g)
            state[b, 1, u] = c
            states[b, t, u] = sigmoid(z_o) * math.tanh(c)
        cuda.syncthreads()
    for u in range(cuda.threadIdx.x, hidden, THREADS):
        state[b, 0, u] = states[b, lengths[b] - 1, u]


@cuda.jit
def _start(end, c0, state, E):
    """state <- (end, c0) for each sequence, and slot 0 of E (batch, length+1, hidden) <- end."""
    b = cuda.blockIdx.x
    for u in range(cuda.threadIdx.x, end.shape[0], THREADS):
        state[b, 0, u] = end[u]
        state[b, 1, u] = c0[u]
        E[b, 0, u] = end[u]


@cuda.jit
def _decoder_inputs(points, target, start, x):
    """x (batch, steps, 2) <- start, P[T_1], P[T_2], …"""
    b = cuda.blockIdx.x
    for t in range(cuda.threadIdx.x, target.shape[1], THREADS):
        for d in range(2):
            if t == 0:
                x[b, t, d] = start[d]
            else:
                last = points.shape[1] - 1  # padding may hold anything
                x[b, t, d] = points[b, tiles.least(tiles.most(target[b, t - 1] - 1, 0), last), d]


@cuda.jit
def _plus_one(n, slots):
    for b in range(n.shape[0]):
        slots[b] = n[b] + 1


def _point(
    enc: Any, dec: Any, slots: Any, steps: Any, target: Any, W1: Any, W2: Any, v: Any
) -> tuple[Any, Any, Any]:
    """(scores, p, loss); the loss means nothing without targets."""
    (batch, n, hidden), width, dtype = enc.shape, dec.shape[1], np.dtype(enc.dtype)
    K, Q = (matmul(a, W.reshape(1, hidden, hidden)) for a, W in ((enc, W1), (dec, W2)))
    scores, p = (device.empty((batch, width, n), dtype) for _ in range(2))
    cost, loss = device.empty((batch, width), dtype), device.empty((), dtype)
    grid = device.blocks(n, TILE) * device.blocks(width, TILE) * batch
    _score_kernel(dtype.name)[grid, (TILE, TILE)](K, Q, v, slots, steps, scores)
    target = device.empty((0, 0), np.int64) if target is None else target
    _softmax_kernel(dtype.name)[width * batch, THREADS](scores, slots, steps, target, p, cost)
    _mean[1, THREADS](cost, steps, loss)
    return scores, p, loss


@EXHIBIT.path
def attend(
    enc: Any,
    dec: Any,
    enc_len: Any,
    dec_len: Any,
    target: Any = None,
    *,
    W1: Any,
    W2: Any,
    v: Any,
) -> dict[str, Any]:
    """See the reference. The steps x n x hidden tanh is never stored."""
    scores, p, loss = _point(enc, dec, enc_len, dec_len, target, W1, W2, v)
    return {"scores": scores, "p": p, "loss": None if target is None else loss}


@EXHIBIT.path
def forward(
    points: Any,
    n: Any,
    target: Any,
    target_len: Any,
    *,
    start: Any,
    end: Any,
    c0: Any,
    W1: Any,
    W2: Any,
    v: Any,
    **lstms: Any,
) -> dict[str, Any]:
    """See the reference."""
    batch, length, _ = points.shape
    steps, hidden, dtype = target.shape[1], end.shape[0], np.dtype(points.dtype)
    names = ("Wih", "Whh", "bih", "bhh")
    state = device.empty((batch, 2, hidden), dtype)
    E = device.empty((batch, length + 1, hidden), dtype)
    x, d = device.empty((batch, steps, 2), dtype), device.empty((batch, steps, hidden), dtype)
    slots = device.empty(batch, np.int64)
    _start[batch, THREADS](end, c0, state, E)
    _lstm[batch, THREADS](points, n, *(lstms[f"enc_{w}"] for w in names), state, E[:, 1:])
    _decoder_inputs[batch, THREADS](points, target, start, x)
    _lstm[batch, THREADS](x, target_len, *(lstms[f"dec_{w}"] for w in names), state, d)
    _plus_one[1, 1](n, slots)
    logits, _, loss = _point(E, d, slots, target_len, target, W1, W2, v)
    return {"logits": logits, "loss": loss}
