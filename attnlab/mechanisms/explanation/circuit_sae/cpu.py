"""Circuits by sparse autoencoders on the CPU: tiles of activations that are coded and forgotten.

Training keeps the rows as columns (d, R), so that every product of the forward and the backward
pass is a plain or a right-transposed one; pieces of the columns are shared out to the threads and
their gradients added up in a fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt
from attnlab.kernels.cpu.runtime import (
    block,
    fetch_add,
    run_workers,
    single_threaded_blas,
    worker,
)
from attnlab.kernels.cpu.scratch import packed
from attnlab.kernels.cpu.softmax import row_max

from . import EXHIBIT
from .curves import auc, judge_edges, judge_nodes, members, softmax, unit

PIECES = 16  # gradients that are added up; fixed, so that results do not depend on threads
WIDTH = 256  # columns of a tile in training
ROWS = 128  # rows of a tile in coding


@EXHIBIT.path
def find_circuit(
    streams: Float[np.ndarray, "N n d"],
    permutation: Int[np.ndarray, "N"],
    enc_weight: Float[np.ndarray, "F d"],
    enc_bias: Float[np.ndarray, "F"],
    dec_weight: Float[np.ndarray, "d F"],
    tied_bias: Float[np.ndarray, "d"],
    circuit_heads: Int[np.ndarray, "m"] | None = None,
    *,
    n_layers: int,
    n_heads: int,
    n_train: int = 10,
    n_epochs: int = 500,
    lr: float = 1e-3,
    lam: float = 0.02,
    dec_unit: str = "rows",
) -> dict[str, Any]:
    """See the reference."""
    N, n, d = streams.shape
    F, dtype = len(enc_bias), streams.dtype
    by_columns = dec_unit == "columns"
    W_e, W_d = unit(enc_weight, 1), unit(dec_weight, 0 if by_columns else 1)
    b_e, t = enc_bias.copy(), tied_bias.copy()

    x = streams.reshape(N * n, d)
    a = np.maximum((streams[:2] - t) @ W_e.T + b_e, 0)
    with single_threaded_blas():
        squares, ones, _, _ = code_rows(x, W_e, b_e, W_d, t, n, True)
        made: dict[str, Any] = {
            "init_activations_first2": a,
            "init_reconstruction_first2": a @ W_d.T + t,
            "init_loss": np.asarray(squares / x.size + lam * ones / len(x), dtype),
        }

        columns = np.ascontiguousarray(streams[permutation[:n_train]].reshape(-1, d).T)
        rate = np.array([2 / columns.size, lam / columns.shape[1]], dtype)
        pieces = min(PIECES, -(-columns.shape[1] // 64))
        gradients = (
            scratch.empty((pieces, F, d), dtype),
            scratch.empty((pieces, F), dtype),
            scratch.empty((pieces, d, F), dtype),
            scratch.empty((pieces, d), dtype),
        )
        moments = np.zeros((2, 2 * F * d + F + d), dtype)
        sums = scratch.empty((pieces, 2), np.float64)
        W_dt = scratch.empty((F, d), dtype)
        train_loss = np.zeros(n_epochs, dtype)
        busy = (
            None if columns.size * F > 2**22 else 1
        )  # one step is short: waking threads costs more
        for epoch in range(n_epochs):
            W_dt[:] = W_d.T
            run_workers(
                descend, columns, W_e, b_e, W_d, W_dt, t, rate, *gradients, sums,
                np.zeros(1, np.int64), workers=busy,
            )  # fmt: skip
            squares, ones = sums.sum(axis=0)
            train_loss[epoch] = squares / columns.size + lam * ones / columns.shape[1]
            first, second = 1 - 0.9 ** (epoch + 1), 1 - 0.999 ** (epoch + 1)
            rates = np.array([lr / first, 1 / second, 1e-8], dtype)
            step(W_e, b_e, W_d, t, *gradients, moments, rates, by_columns)

        _, _, codes, margins = code_rows(x, W_e, b_e, W_d, t, n, False)
    u = node_counts(codes)[0].astype(dtype)
    made |= {
        "train_loss": train_loss,
        "trained_enc_weight": W_e,
        "trained_enc_bias": b_e,
        "trained_dec_weight": W_d,
        "trained_tied_bias": t,
        "codes": codes,
        "code_margin_min": margins.min(),
        "node_softmax": softmax(u),
    }
    if circuit_heads is not None:
        made["node_auc"] = np.asarray(auc(u, members(circuit_heads, n)), dtype)
    return made


@EXHIBIT.path
def score_codes(
    codes: Int[np.ndarray, "N n"],
    circuit_heads: Int[np.ndarray, "m"] | None = None,
    median_pred: Bool[np.ndarray, "n_layers n_heads"] | None = None,
    *,
    n_layers: int,
    n_heads: int,
    edge_k: list[int] | None = None,
    n_features: int | None = None,
) -> dict[str, Any]:
    """See the reference. Examples are sorted by the code of one head; then a stamp for each code of
    the other head tells whether a pair is new, in O(N) for every pair of heads."""
    n = codes.shape[1]
    truth = None if circuit_heads is None else members(circuit_heads, n)
    ranks = _by_head(codes)
    U, total = np.zeros((2, n, n), np.int64)
    run_workers(
        count_pairs, ranks, int(ranks.max()) + 1, U, total, np.zeros(1, np.int64),
        workers=None if codes.size * n > 2**18 else 1,
    )  # fmt: skip
    nodes = judge_nodes(_counts(ranks), n_layers, truth, median_pred)
    return nodes | judge_edges(U, total, edge_k, truth)


def code_rows(x, W_e, b_e, W_d, t, n, decode):  # type: ignore[no-untyped-def]
    """(sum of squared errors, sum of activations, codes (N, n), least margins) of all rows."""
    tiles = -(-len(x) // ROWS)
    sums = scratch.empty((tiles, 2), np.float64)
    margins = scratch.empty(tiles, x.dtype)
    codes = scratch.empty(len(x), np.int64)
    run_workers(
        survey, x, W_e, b_e - W_e @ t, W_d, t, decode, codes, sums, margins,
        np.zeros(1, np.int64), workers=None if x.size * len(b_e) > 2**20 else 1,
    )  # fmt: skip
    return *sums.sum(axis=0), codes.reshape(-1, n), margins


def node_counts(codes: Int[np.ndarray, "N n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(5) for each head: codes on positives only, on negatives only, in all."""
    return _counts(_by_head(codes))


def _by_head(codes: Int[np.ndarray, "N n"]) -> Int[np.ndarray, "n N"]:
    """Codes of each head in a row; renumbered where their range is wider than tables should be."""
    if codes.max() > 4 * codes.size + 1024:
        codes = np.unique(codes, return_inverse=True)[1].reshape(codes.shape)
    return np.ascontiguousarray(codes.T)


def _counts(ranks: Int[np.ndarray, "n N"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    made = np.zeros((3, len(ranks)), np.int64)
    count_codes(ranks, int(ranks.max()) + 1, made)
    return made[0], made[1], made[2]


@block
def coded(row):
    """(4) of a row before relu: (code, gap of the two largest after relu)."""
    largest = row_max(row)
    zero = row.dtype.type(0)
    code = 0
    if largest > zero:
        while code < row.size - 1 and row[code] != largest:
            code += 1
    if row.size == 1:
        return code, row.dtype.type(np.inf)
    kept = row[code]
    row[code] = -np.inf
    second = row_max(row)
    row[code] = kept
    return code, max(largest, zero) - max(second, zero)


@worker
def survey(x, W_e, bias, W_d, t, decode, codes, sums, margins, counter):
    """(1), (4) tile by tile of the rows x (R, d); bias = b_e - W_e t. With decode also (2)."""
    F, d = W_e.shape
    tile = scratch.tile((ROWS, F), x.dtype)
    error = scratch.tile((ROWS, d), x.dtype)
    put = np.zeros(2, x.dtype)
    put[0] = 1
    while True:
        item = fetch_add(counter, 1)
        first = item * ROWS
        if first >= x.shape[0]:
            break
        rows = min(ROWS, x.shape[0] - first)
        gemm_nt(put, x[first : first + rows], W_e, tile[:rows])
        ones, squares = 0.0, 0.0
        least = x.dtype.type(np.inf)
        for i in range(rows):
            row = packed(tile[i])
            total = x.dtype.type(0)
            for f in range(F):
                row[f] += bias[f]
            if not decode:
                codes[first + i], margin = coded(row)
                least = min(least, margin)
            else:
                for f in range(F):
                    row[f] = max(row[f], x.dtype.type(0))
                    total += row[f]
                ones += total
        if decode:
            gemm_nt(put, tile[:rows], W_d, error[:rows])
            for i in range(rows):
                total = x.dtype.type(0)
                for c in range(d):
                    e = error[i, c] + t[c] - x[first + i, c]
                    total += e * e
                squares += total
        sums[item, 0], sums[item, 1], margins[item] = squares, ones, least


@worker
def descend(x, W_e, b_e, W_d, W_dt, t, rate, g_We, g_be, g_Wd, g_t, sums, counter):
    """Gradients of (2) over pieces of the columns of x (d, R); rate: [2 / (R d), lambda / R]."""
    F, d = W_e.shape
    R, pieces = x.shape[1], g_be.shape[0]
    width = min(WIDTH, R)
    centred = scratch.tile((d, width), x.dtype)
    error = scratch.tile((d, width), x.dtype)
    a = scratch.tile((F, width), x.dtype)
    d_a = scratch.tile((F, width), x.dtype)
    put, less, add = np.zeros(2, x.dtype), np.ones(2, x.dtype), np.ones(2, x.dtype)
    put[0], less[1] = 1, -1
    zero = x.dtype.type(0)
    while True:
        p = fetch_add(counter, 1)
        if p >= pieces:
            break
        begin, end = p * R // pieces, (p + 1) * R // pieces
        for c in range(d):
            g_t[p, c] = zero
            for f in range(F):
                g_Wd[p, c, f] = zero
        for f in range(F):
            g_be[p, f] = zero
            for c in range(d):
                g_We[p, f, c] = zero
        ones, squares = 0.0, 0.0
        for first in range(begin, end, width):
            w = min(width, end - first)
            for c in range(d):
                for r in range(w):
                    centred[c, r] = x[c, first + r] - t[c]
                    error[c, r] = centred[c, r]
            gemm_nn(put, W_e, centred[:, :w], a[:, :w])
            for f in range(F):
                total = zero
                for r in range(w):
                    a[f, r] = max(a[f, r] + b_e[f], zero)
                    total += a[f, r]
                ones += total
            gemm_nn(less, W_d, a[:, :w], error[:, :w])  # xhat - x
            for c in range(d):
                total, squared = zero, zero
                for r in range(w):
                    squared += error[c, r] * error[c, r]
                    error[c, r] *= rate[0]
                    total += error[c, r]
                squares += squared
                g_t[p, c] += total
            gemm_nt(add, error[:, :w], a[:, :w], g_Wd[p])
            gemm_nn(put, W_dt, error[:, :w], d_a[:, :w])
            for f in range(F):
                total = zero
                for r in range(w):
                    d_a[f, r] = d_a[f, r] + rate[1] if a[f, r] > zero else zero
                    total += d_a[f, r]
                g_be[p, f] += total
            gemm_nt(add, d_a[:, :w], centred[:, :w], g_We[p])
        for f in range(F):  # t stands in x - t too
            for c in range(d):
                g_t[p, c] -= W_e[f, c] * g_be[p, f]
        sums[p, 0], sums[p, 1] = squares, ones


@block
def along(w, g, by_columns, out):
    """out <- g . w of every row, or of every column."""
    for i in range(w.shape[1] if by_columns else w.shape[0]):
        out[i] = w.dtype.type(0)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            out[j if by_columns else i] += w[i, j] * g[i, j]


@block
def rescale(w, by_columns, squares):
    """(3): rows (columns) of w to length 1, in place; zeros stay."""
    along(w, w, by_columns, squares)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            square = squares[j if by_columns else i]
            if square > 0:
                w[i, j] /= np.sqrt(square)


@block
def adam(w, g, m, v, rates):
    """One step; rates: [lr / (1 - .9^t), 1 / (1 - .999^t), eps]."""
    keep, fresh = w.dtype.type(0.9), w.dtype.type(0.1)
    keep2, fresh2 = w.dtype.type(0.999), w.dtype.type(0.001)
    for i in range(w.size):
        m[i] = keep * m[i] + fresh * g[i]
        v[i] = keep2 * v[i] + fresh2 * g[i] * g[i]
        w[i] -= rates[0] * m[i] / (np.sqrt(v[i] * rates[1]) + rates[2])


@block
def add_pieces(g):
    """g[0] <- the sum over pieces g (pieces, size), in their order."""
    for p in range(1, g.shape[0]):
        for i in range(g.shape[1]):
            g[0, i] += g[p, i]


@block
def project(w, g, by_columns, room):
    """(3): g without its part along the unit rows (columns) of w."""
    along(w, g, by_columns, room)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            g[i, j] -= room[j if by_columns else i] * w[i, j]


@worker
def step(W_e, b_e, W_d, t, g_We, g_be, g_Wd, g_t, moments, rates, by_columns):
    """Add up the gradients, project, let Adam move the weights, rescale: all in place."""
    pieces, F, d = g_We.shape
    room = scratch.tile(max(F, d), W_e.dtype)
    add_pieces(g_We.reshape(pieces, F * d))
    add_pieces(g_be)
    add_pieces(g_Wd.reshape(pieces, F * d))
    add_pieces(g_t)
    project(W_e, g_We[0], False, room)
    project(W_d, g_Wd[0], by_columns, room)
    m, v = moments[0], moments[1]
    size = F * d
    adam(W_e.reshape(size), g_We[0].reshape(size), m[:size], v[:size], rates)
    adam(W_d.reshape(size), g_Wd[0].reshape(size), m[size : 2 * size], v[size : 2 * size], rates)
    adam(b_e, g_be[0], m[2 * size : 2 * size + F], v[2 * size : 2 * size + F], rates)
    adam(t, g_t[0], m[2 * size + F :], v[2 * size + F :], rates)
    rescale(W_e, False, room)
    rescale(W_d, by_columns, room)


@worker
def count_codes(ranks, F, made):
    """(5): made (3, n) <- codes on positives only, on negatives only, in all; ranks (n, N)."""
    n, N = ranks.shape
    # of head h: 3h + 1 seen on a negative, 3h + 2 on a positive, 3h + 3 on both; at most 3h not yet
    seen = np.zeros(F, np.int64)
    for h in range(n):
        pos, neg, both = 0, 0, 0
        low = 3 * h
        for e in range(N // 2, N):
            if seen[ranks[h, e]] <= low:
                seen[ranks[h, e]] = low + 1
                neg += 1
        for e in range(N // 2):
            mark = seen[ranks[h, e]]
            if mark <= low:
                pos += 1
                seen[ranks[h, e]] = low + 2
            elif mark == low + 1:
                both += 1
                seen[ranks[h, e]] = low + 3
        made[0, h], made[1, h], made[2, h] = pos, neg - both, pos + neg


@worker
def count_pairs(ranks, F, U, total, counter):
    """(7) and its divisor for all pairs of heads; ranks (n, N), U, total (n, n) zeros before."""
    n, N = ranks.shape
    start = scratch.tile(F + 1, np.int64)
    order = scratch.tile(N, np.int64)
    on_pos, on_neg = (
        np.zeros(F, np.int64),
        np.zeros(F, np.int64),
    )  # the group that saw the code last
    group = 0
    while True:
        g = fetch_add(counter, 1)
        if g >= n:
            break
        for f in range(F + 1):  # examples by their code of head g, negatives first within a code
            start[f] = 0
        for e in range(N):
            start[ranks[g, e] + 1] += 1
        for f in range(F):
            start[f + 1] += start[f]
        for turn in range(N):
            e = (turn + N // 2) % N
            order[start[ranks[g, e]]] = e
            start[ranks[g, e]] += 1
        for h in range(g + 1, n):
            row = ranks[h]
            only, pairs = 0, 0
            before = -1
            for place in range(N):
                e = order[place]
                if ranks[g, e] != before:
                    before = ranks[g, e]
                    group += 1
                f = row[e]
                if e >= N // 2:
                    if on_neg[f] != group:
                        on_neg[f] = group
                        pairs += 1
                elif on_pos[f] != group:
                    on_pos[f] = group
                    pairs += 1
                    only += on_neg[f] != group
            U[g, h], U[h, g] = only, only
            total[g, h], total[h, g] = pairs, pairs
