"""Attention calibration on the CPU: tiled attention, tiled column sums, then the sinks alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt
from attnlab.kernels.cpu.exp import exp
from attnlab.kernels.cpu.flash import flash_attention, transpose_tile
from attnlab.kernels.cpu.runtime import fetch_add, run_workers, single_threaded_blas, worker

from . import EXHIBIT, bar

ROWS, COLUMNS = 64, 256
# Below this share off the sinks, (out - on sinks) / rest would lose digits.
SMALL_REST = {"f": 0.8, "d": 1e-3}


@EXHIBIT.path
def calibrated_attend(
    q: Float[np.ndarray, "1 h n dim"],
    k: Float[np.ndarray, "1 h n dim"],
    v: Float[np.ndarray, "1 h n value_dim"],
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. Memory is linear in n unless a map is asked for.

    With rest_k the attention over the other keys alone, (5) reads
    out_k = beta * sum_{t in S'} A[k,t] v_t + (1 - beta * mass_k) * rest_k, where mass_k is row k's
    weight on S'; and rest_k is what plain attention gives, less the sinks, over 1 - mass_k.
    """
    h, n, dim = q.shape[1:]
    out, lse = flash_attention(q, k, v, causal=True)
    column_sum = np.zeros((h, n), q.dtype)
    scale = np.array([dim**-0.5, 0], q.dtype)
    with single_threaded_blas():
        run_workers(
            sum_columns, q[0], k[0], lse[0], scale, column_sum, np.zeros(1, np.int64),
            workers=None if h * n * n * dim > 2**23 else 1,
        )  # fmt: skip
    mean = column_sum / np.arange(n, 0, -1, dtype=q.dtype)
    sinks = later_sinks(mean, threshold, alpha, heads)
    made: dict[str, np.ndarray | None] = {"column_mean": mean, "sink_mask": sinks}
    if want & {"probs", "probs_calibrated"}:
        S = q[0] @ k[0].swapaxes(1, 2) * scale[0] - lse[0, ..., None]
        A = np.exp(np.where(np.tri(n, dtype=bool), S, -np.inf))
        made |= {"probs": A[None], "probs_calibrated": move(A, sinks, beta)[None]}
    if sinks.any() and beta < 1:
        _calibrate(q, k, v, out, lse, sinks, beta)
    return made | {"out": out}


def _calibrate(q, k, v, out, lse, sinks, beta):  # type: ignore[no-untyped-def]
    """Rewrite `out` in the heads that have sinks."""
    h, n, dim = q.shape[1:]
    counts = sinks.sum(axis=1)
    at = np.argsort(~sinks, axis=1, kind="stable")[:, : counts.max()]  # (h, most), sinks first
    sink_k = np.take_along_axis(k[0], at[..., None], axis=1)
    sink_v = np.take_along_axis(v[0], at[..., None], axis=1)
    kind = q.dtype.char
    mass = np.zeros((h, n), q.dtype)
    scalars = np.array([dim**-0.5, 0, beta, SMALL_REST[kind]], q.dtype)
    with single_threaded_blas():
        run_workers(
            edit_rows, q[0], sink_k, sink_v, at, counts, scalars, lse[0], out[0], mass,
            np.zeros(1, np.int64), workers=None if h * n * at.shape[1] * dim > 2**23 else 1,
        )  # fmt: skip
    few = mass > 1 - SMALL_REST[kind]
    some = np.flatnonzero(few.any(axis=1))
    if some.size:  # heads with rows almost wholly on sinks: the others' attention, made afresh
        rest, rest_lse = flash_attention(
            q[:, some], k[:, some], v[:, some], causal=True, mask=~sinks[None, some, None]
        )
        lone = np.exp(rest_lse[0] - lse[0, some]) == 0  # rho = 0: the row stays as it is
        where = few[some] & ~lone
        share = (1 - beta * mass[some])[..., None]
        on_sinks = _on_sinks(q, k, v, lse, some, sinks, where)
        out[0, some] = np.where(where[..., None], beta * on_sinks + share * rest[0], out[0, some])


def _on_sinks(q, k, v, lse, some, sinks, where):  # type: ignore[no-untyped-def]
    """sum_{t in S'} A[k,t] v_t of the few rows where it is asked for, 0 elsewhere."""
    made = np.zeros((len(some), *v.shape[2:]), v.dtype)
    for slot, h in enumerate(some):
        rows, columns = np.flatnonzero(where[slot]), np.flatnonzero(sinks[h])
        S = q[0, h, rows] @ k[0, h, columns].T * q.dtype.type(q.shape[3] ** -0.5)
        A = np.exp(np.where(columns <= rows[:, None], S - lse[0, h, rows, None], -np.inf))
        made[slot, rows] = A.astype(v.dtype) @ v[0, h, columns]
    return made


@EXHIBIT.path
def streaming_attend(
    q: Float[np.ndarray, "1 h 1 dim"],
    k: Float[np.ndarray, "1 h n dim"],
    v: Float[np.ndarray, "1 h n value_dim"],
    column_sum: Float[np.ndarray, "h n"],
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
) -> dict[str, np.ndarray]:
    """See the reference."""
    n, dim = k.shape[2:]
    a = np.matmul(k[0], q[0].swapaxes(1, 2))[..., 0]  # (h, n)
    a *= q.dtype.type(dim**-0.5)
    a = np.exp(a - a.max(axis=1, keepdims=True))
    a /= a.sum(axis=1, keepdims=True)
    column_sum = column_sum + a
    mean = column_sum / np.arange(n, 0, -1, dtype=q.dtype)
    sinks = later_sinks(mean, threshold, alpha, heads)
    out = move(a[:, None], sinks, beta) @ v[0]
    return {"sink_mask": sinks, "out": out[None], "column_sum": column_sum}


def later_sinks(
    mean: Float[np.ndarray, "h n"], threshold: float, alpha: float | None, heads: list[int] | None
) -> Bool[np.ndarray, "h n"]:
    """(2): S' as a mask, False in heads that are left alone."""
    h, n = mean.shape
    sinks = mean > bar(n, threshold, alpha, np.finfo(mean.dtype).eps)
    edited = np.zeros(h, bool)
    edited[slice(None) if heads is None else heads] = True
    return sinks & (np.cumsum(sinks, axis=1) > 1) & edited[:, None]


def move(
    A: Float[np.ndarray, "h rows n"], sinks: Bool[np.ndarray, "h n"], beta: float
) -> Float[np.ndarray, "h rows n"]:
    """(3)-(5); a row entirely on sinks stays as it is."""
    on_sinks = A * sinks[:, None]
    rest = A - on_sinks
    rho = rest.sum(axis=-1, keepdims=True)
    free = (1 - beta) * on_sinks.sum(axis=-1, keepdims=True)
    rest += free * (rest / np.where(rho > 0, rho, 1))  # free / rho may overflow
    return np.where(rho > 0, beta * on_sinks + rest, A)


@worker
def sum_columns(q, k, lse, scale, column_sum, counter):
    """column_sum (h, n) <- sums over queries of exp(scale q k^T - lse), tiles of keys by counter."""
    h, n, dim = q.shape
    tiles = (n + COLUMNS - 1) // COLUMNS
    kt = scratch.tile((dim, COLUMNS), q.dtype)
    s_tile = scratch.tile((ROWS, COLUMNS), q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= h * tiles:
            break
        head, j0 = item // tiles, item % tiles * COLUMNS
        j1 = min(j0 + COLUMNS, n)
        transpose_tile(k[head, j0:j1], kt)
        total = column_sum[head, j0:j1]
        for i0 in range(j0 // ROWS * ROWS, n, ROWS):
            i1 = min(i0 + ROWS, n)
            s = s_tile[: i1 - i0, : j1 - j0]
            gemm_nn(scale, q[head, i0:i1], kt[:, : j1 - j0], s)
            for i in range(i0, i1):
                row, shift = s[i - i0], lse[head, i]
                for j in range(min(j1, i + 1) - j0):  # causal: key j0 + j <= query i
                    total[j] += exp(row[j] - shift)


@worker
def edit_rows(q, sink_k, sink_v, at, counts, scalars, lse, out, mass, counter):
    """out <- beta on_sinks + (1 - beta mass) (out - on_sinks) / (1 - mass), by tiles of rows.

    at (h, most): each head's sinks, the first counts[h] of them. scalars: [scale, 0, beta, least
    1 - mass]; rows below it only get their mass.
    """
    h, n, _ = q.shape
    beta, least, one = scalars[2], scalars[3], q.dtype.type(1)
    tiles = (n + ROWS - 1) // ROWS
    put = np.zeros(2, q.dtype)
    put[0] = 1
    s_tile = scratch.tile((ROWS, at.shape[1]), q.dtype)
    acc = scratch.tile((ROWS, out.shape[2]), q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= h * tiles:
            break
        head, i0 = item // tiles, item % tiles * ROWS
        i1, sinks = min(i0 + ROWS, n), counts[head]
        if sinks == 0 or at[head, 0] >= i1:
            continue
        s = s_tile[: i1 - i0, :sinks]
        gemm_nt(scalars[:2], q[head, i0:i1], sink_k[head, :sinks], s)
        for i in range(i0, i1):
            row, total = s[i - i0], q.dtype.type(0)
            for j in range(sinks):
                row[j] = exp(row[j] - lse[head, i]) if at[head, j] <= i else q.dtype.type(0)
                total += row[j]
            mass[head, i] = total
        gemm_nn(put, s, sink_v[head, :sinks], acc[: i1 - i0])
        for i in range(i0, i1):
            rest = one - mass[head, i]
            if mass[head, i] > 0 and rest >= least:
                share = (one - beta * mass[head, i]) / rest
                for c in range(out.shape[2]):
                    on_sinks = acc[i - i0, c]
                    out[head, i, c] = beta * on_sinks + share * (out[head, i, c] - on_sinks)
