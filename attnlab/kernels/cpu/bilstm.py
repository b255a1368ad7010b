"""A bidirectional LSTM with additive attention, at many points between one text and its baselines.

Attribution methods ask a classifier about texts that differ from x in a simple way: token by token
they are x, a baseline, or a point in between. What enters the LSTM is linear in the embedding, so
each token's pre-activations are computed once for x and once for each baseline, and a point is no
more than a coefficient a token. Probabilities are given for all points, gradients for the first ones.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.exp import exp, sigmoid, tanh
from attnlab.kernels.cpu.product import linear
from attnlab.kernels.cpu.runtime import (
    block,
    contiguous,
    fetch_add,
    run_workers,
    single_threaded_blas,
    threads,
    worker,
)

GROUP = 32  # points that take a time step together: rows of one product


class Points(NamedTuple):
    """F (points,): probabilities. alpha, norm (graded, n): attention and |alpha_t h_t|.
    dz (graded, 2, n, 4 hidden): dF with respect to each direction's pre-activations."""

    F: Float[np.ndarray, "points"]
    alpha: Float[np.ndarray, "graded n"]
    norm: Float[np.ndarray, "graded n"]
    dz: Float[np.ndarray, "graded 2 n 4*hidden"]


@block
def _step(z, before, cell, h):
    """Pre-activations z (4 hidden) become gates, in place; cell, h <- the next state."""
    hidden = cell.size
    for k in range(hidden):
        i, f = sigmoid(z[k]), sigmoid(z[hidden + k])
        g, o = tanh(z[2 * hidden + k]), sigmoid(z[3 * hidden + k])
        z[k], z[hidden + k], z[2 * hidden + k], z[3 * hidden + k] = i, f, g, o
        cell[k] = f * before[k] + i * g
        h[k] = o * tanh(cell[k])


@block
def _step_back(z, before, cell, dh, carry, dcell):
    """Gates z become derivatives of the pre-activations, in place; dcell moves one step back."""
    hidden = cell.size
    one = z.dtype.type(1)
    for k in range(hidden):
        i, f, g, o = z[k], z[hidden + k], z[2 * hidden + k], z[3 * hidden + k]
        c = tanh(cell[k])
        total = dh[k] + carry[k]
        d = dcell[k] + total * o * (one - c * c)
        z[k] = d * g * i * (one - i)
        z[hidden + k] = d * before[k] * f * (one - f)
        z[2 * hidden + k] = d * i * (one - g * g)
        z[3 * hidden + k] = total * c * o * (one - o)
        dcell[k] = d * f


@block
def _decoded(h, dec, t, r):
    """dec . h_t of row r: what token t would add to the logit if it had all the attention."""
    total = h.dtype.type(0)
    for way in range(2):
        state, weight = h[way, t, r], dec[way]
        for k in range(weight.size):
            total += state[k] * weight[k]
    return total


@block
def _attend(h, u, w2, dec, dec_bias, mask, alpha, rows):
    """(7) for one point, row r of the group: alpha (n) <- attention; the logit.

    h (2, n, group, hidden), u (n, group, hidden), dec (2, hidden).
    """
    n = h.shape[1]
    top = -np.inf
    for t in range(n):
        s = alpha.dtype.type(0)
        for k in range(w2.size):
            s += u[t, rows, k] * w2[k]
        alpha[t] = s
        if mask[t] and s > top:
            top = s
    total = alpha.dtype.type(0)
    for t in range(n):
        alpha[t] = exp(alpha[t] - alpha.dtype.type(top)) if mask[t] else alpha.dtype.type(0)
        total += alpha[t]
    logit = dec_bias
    for t in range(n):
        alpha[t] /= total
        if mask[t]:
            logit += alpha[t] * _decoded(h, dec, t, rows)
    return logit


@worker
def walk_points(
    zx, zb, coefficient, base, wh, wh_back, w1, w1_back, b1, w2, dec, dec_bias, mask,
    F, alpha, norm, dz, counter,
):  # fmt: skip
    """One worker's share of the points, a group at a time: forward, and back for the graded ones."""
    points, n = coefficient.shape
    graded, hidden = dz.shape[0], w2.size
    kind = zx.dtype
    gates = scratch.tile((2, n, GROUP, 4 * hidden), kind)
    cells = scratch.tile((2, n, GROUP, hidden), kind)
    h, dh = scratch.tile((2, n, GROUP, hidden), kind), scratch.tile((2, n, GROUP, hidden), kind)
    u = scratch.tile((n, GROUP, hidden), kind)
    carry, dcell = scratch.tile((GROUP, hidden), kind), scratch.tile((GROUP, hidden), kind)
    nothing = np.zeros((GROUP, hidden), kind)
    weight = scratch.tile((GROUP, n), kind)
    put, add = np.zeros(2, kind), np.ones(2, kind)
    put[0] = 1
    while True:
        first = fetch_add(counter, GROUP)
        if first >= points:
            break
        rows = min(GROUP, points - first)
        for way in range(2):
            for step in range(n):
                t = step if way == 0 else n - 1 - step
                before = t - 1 if way == 0 else t + 1
                z = gates[way, t, :rows]
                for r in range(rows):
                    share = coefficient[first + r, t]
                    low, high = zb[base[first + r], way, t], zx[way, t]
                    row = z[r]
                    for k in range(4 * hidden):
                        row[k] = low[k] + share * (high[k] - low[k])
                if step > 0:
                    gemm_nn(add, h[way, before, :rows], wh[way], z)
                for r in range(rows):
                    old = cells[way, before, r] if step > 0 else nothing[r]
                    _step(z[r], old, cells[way, t, r], h[way, t, r])
        for t in range(n):
            gemm_nn(put, h[0, t, :rows], w1[0], u[t, :rows])
            gemm_nn(add, h[1, t, :rows], w1[1], u[t, :rows])
            for r in range(rows):
                for k in range(hidden):
                    u[t, r, k] = tanh(u[t, r, k] + b1[k])
        for r in range(rows):
            F[first + r] = sigmoid(_attend(h, u, w2, dec, dec_bias[0], mask, weight[r], r))
        if first >= graded:
            continue

        for r in range(rows):
            p = F[first + r]
            slope = p * (1 - p)
            mean = kind.type(0)
            for t in range(n):
                mean += weight[r, t] * _decoded(h, dec, t, r)
            for t in range(n):
                for way in range(2):
                    for k in range(hidden):
                        dh[way, t, r, k] = slope * weight[r, t] * dec[way, k]
                ds = slope * weight[r, t] * (_decoded(h, dec, t, r) - mean)
                for k in range(hidden):
                    u[t, r, k] = ds * w2[k] * (1 - u[t, r, k] * u[t, r, k])
            if first + r < graded:
                for t in range(n):
                    square = kind.type(0)
                    for way in range(2):
                        for k in range(hidden):
                            square += h[way, t, r, k] * h[way, t, r, k]
                    alpha[first + r, t] = weight[r, t]
                    norm[first + r, t] = weight[r, t] * np.sqrt(square)
        for t in range(n):
            for way in range(2):
                gemm_nn(add, u[t, :rows], w1_back[way], dh[way, t, :rows])
        for way in range(2):
            carry[:] = 0
            dcell[:] = 0
            for step in range(n - 1, -1, -1):
                t = step if way == 0 else n - 1 - step
                before = t - 1 if way == 0 else t + 1
                z = gates[way, t, :rows]
                for r in range(rows):
                    old = cells[way, before, r] if step > 0 else nothing[r]
                    _step_back(z[r], old, cells[way, t, r], dh[way, t, r], carry[r], dcell[r])
                if step > 0:
                    gemm_nn(put, z, wh_back[way], carry[:rows])
                for r in range(rows):
                    if first + r < graded:
                        dz[first + r, way, t] = z[r]


def read_points(
    x: Float[np.ndarray, "n width"],
    baselines: Float[np.ndarray, "baselines n width"],
    coefficient: Float[np.ndarray, "points n"],
    base: Int[np.ndarray, "points"],
    graded: int,
    mask: Bool[np.ndarray, "n"],
    weights: Mapping[str, np.ndarray],
) -> Points:
    """The classifier at the points c x + (1 - c) baselines[base], c a coefficient a token.

    weights: torch's names for a BiLSTM (`enc_weight_ih_l0` …, gates in the order i, f, g, o),
    `att_alignment_layer1_weight` (hidden, 2 hidden), its `_bias`, `att_alignment_layer2_weight`
    (1, hidden), `dec_weight` (1, 2 hidden), `dec_bias` (1,). The mask hides tokens from the attention
    alone. Gradients are those of the first `graded` points. float32 or float64, as x.
    """
    kind, ends = x.dtype, ("l0", "l0_reverse")
    n, hidden = len(x), weights["enc_weight_hh_l0"].shape[1]
    tokens = np.concatenate([x[None], baselines])  # (1 + baselines, n, width)
    entering = [
        linear(tokens, weights[f"enc_weight_ih_{end}"])
        + (weights[f"enc_bias_ih_{end}"] + weights[f"enc_bias_hh_{end}"])
        for end in ends
    ]
    z = np.stack(entering, axis=1)  # (1 + baselines, 2, n, 4 hidden)
    wh_back = np.stack([weights[f"enc_weight_hh_{end}"] for end in ends])  # (2, 4 hidden, hidden)
    w1 = weights["att_alignment_layer1_weight"].reshape(hidden, 2, hidden).swapaxes(0, 1)
    made = Points(
        scratch.empty(len(base), kind),
        scratch.empty((graded, n), kind),
        scratch.empty((graded, n), kind),
        scratch.empty((graded, 2, n, 4 * hidden), kind),
    )
    with single_threaded_blas():
        run_workers(
            walk_points,
            *(contiguous(z[0], kind), contiguous(z[1:], kind), contiguous(coefficient, kind)),
            contiguous(base, np.int64),
            *(contiguous(wh_back.swapaxes(1, 2), kind), contiguous(wh_back, kind)),
            *(contiguous(w1.swapaxes(1, 2), kind), contiguous(w1, kind)),
            contiguous(weights["att_alignment_layer1_bias"], kind),
            contiguous(weights["att_alignment_layer2_weight"][0], kind),
            contiguous(weights["dec_weight"].reshape(2, hidden), kind),
            contiguous(weights["dec_bias"], kind),
            contiguous(mask, np.bool_),
            *made,
            np.zeros(1, np.int64),
            workers=threads() if len(base) > GROUP else 1,
        )
    return made


def to_embedding(
    dz: Float[np.ndarray, "*more 2 n 4*hidden"], weights: Mapping[str, np.ndarray]
) -> Float[np.ndarray, "*more n width"]:
    """Derivatives of the pre-activations, or sums of them, as derivatives of the embedded tokens."""
    forward, backward = (weights[f"enc_weight_ih_{end}"].T for end in ("l0", "l0_reverse"))
    return linear(dz[..., 0, :, :], forward) + linear(dz[..., 1, :, :], backward)
