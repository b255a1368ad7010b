"""Extractors on the CPU: tiles of rows for the sums by lag, running sums by place, FFT for long filters."""

from __future__ import annotations

import numpy as np
import scipy.fft
from jaxtyping import Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.product import product
from attnlab.kernels.cpu.runtime import (
    fetch_add,
    run_workers,
    single_threaded_blas,
    threads,
    worker,
)

from . import EXHIBIT

SMALL_PRODUCT = 1_000_000  # rows * dim * dim that OpenBLAS multiplies without packing
FILTER_ROWS = 64  # rows of a tile of the direct filter
DIRECT = 128  # up to this length the direct filter beats the FFT


@EXHIBIT.path
def extract(
    x: Float[np.ndarray, "batch n dim"],
    W: Float[np.ndarray, "L dim dim"] | None = None,
    w: Float[np.ndarray, "L dim"] | Float[np.ndarray, "L"] | None = None,
    W_shared: Float[np.ndarray, "dim dim"] | None = None,
    W_adj: Float[np.ndarray, "dim dim"] | None = None,
    w_adj: Float[np.ndarray, "dim"] | None = None,
    *,
    kind: str,
    index: str = "lag",
    sqrt_scale: bool = True,
) -> dict[str, np.ndarray]:
    """See the reference."""
    n, dim = x.shape[1:]
    v = x if W_shared is None else product(x, W_shared)
    a = x * w_adj if W_adj is None else product(x, W_adj)
    root = np.arange(1, n + 1) ** (-0.5 if sqrt_scale else 0)
    a *= root.astype(x.dtype)[:, None]  # (5) and (6): what each sum is multiplied with
    y = scratch.empty(x.shape, x.dtype)
    counter = np.zeros(1, np.int64)
    if kind == "SHE":
        with single_threaded_blas():
            if index == "lag":
                rows = max(16, min(n, SMALL_PRODUCT // dim**2 // 8 * 8))
                run_workers(sum_lags, v, W, a, rows, y, counter)
            else:
                run_workers(transform_places, v, W, y, counter)
                np.cumsum(y, axis=1, out=y)
                y *= a
        return {"y": y}
    assert w is not None
    table = w[:n] if w.ndim == 2 else w[:n, None]  # (n, dim) or (n, 1)
    if index == "lag" and n > DIRECT and x.size:
        return {"y": convolve(v, table) * a}
    table = np.ascontiguousarray(np.broadcast_to(table, (n, dim)) if index == "lag" else table)
    run_workers(filter_rows if index == "lag" else sum_places, v, table, a, y, counter)
    return {"y": y}


def convolve(
    v: Float[np.ndarray, "batch n dim"], table: Float[np.ndarray, "n dim|1"]
) -> Float[np.ndarray, "batch n dim"]:
    """e_t = sum_l table[l] * v_{t-l} by FFT, in v's precision.

    Neighbouring channels are the real and the imaginary part of one complex signal: half as many
    transforms, and no copy where dim is even.
    """
    n, dim = v.shape[1:]
    if dim % 2:
        wider = ((0, 0), (0, 0), (0, 1))
        v, table = np.pad(v, wider), np.pad(table, wider[1:]) if table.shape[1] > 1 else table
    kind = np.result_type(v.dtype, np.complex64)
    size = scipy.fft.next_fast_len(2 * n - 1)
    with scipy.fft.set_workers(threads()):
        Z = scipy.fft.fft(np.ascontiguousarray(v).view(kind), size, axis=1)  # (batch, size, dim/2)
        if table.shape[1] == 1:
            Z *= scipy.fft.fft(table, size, axis=0)
        else:
            T = scipy.fft.fft(np.ascontiguousarray(table).view(kind), size, axis=0)
            run_workers(multiply_spectra, Z, T, np.zeros(1, np.int64))
        e = scipy.fft.ifft(Z, axis=1, overwrite_x=True)[:, :n]
    return np.ascontiguousarray(e).view(v.dtype)[:, :, :dim]


@worker
def multiply_spectra(Z, T, counter):
    """One worker's share of Z <- the spectrum of both parts' own products.

    Z = A + iB with A, B the spectra of two real signals: A_f = (Z_f + conj Z_-f) / 2 and
    iB_f = (Z_f - conj Z_-f) / 2; T the same. The result is A A' + i B B', f and -f at a time.
    """
    batch, size, channels = Z.shape
    quarter = Z.real.dtype.type(0.25)
    while True:
        first = fetch_add(counter, 64)
        if first > size // 2:
            break
        for f in range(first, min(first + 64, size // 2 + 1)):
            g = (size - f) % size
            for b in range(batch):
                for c in range(channels):
                    z, z_, t, t_ = Z[b, f, c], Z[b, g, c].conjugate(), T[f, c], T[g, c].conjugate()
                    # iB iB' = -B B', so i B B' = -i (iB)(iB')
                    even, odd = quarter * (z + z_) * (t + t_), quarter * (z - z_) * (t - t_)
                    Z[b, f, c] = complex(even.real + odd.imag, even.imag - odd.real)
                    # at -f all four spectra are conjugates
                    Z[b, g, c] = complex(even.real - odd.imag, -even.imag - odd.real)


@worker
def sum_lags(x, W, a, rows, y, counter):
    """One worker's share of SHE by lag: tiles of `rows` rows; each lag adds x[t-l] W[l] to row t.

    Each lag's product reads x in place, `rows` tokens earlier or later; tiles of one size serve all.
    """
    batch, n, _ = x.shape
    tiles = (n + rows - 1) // rows
    add = np.ones(2, x.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * tiles:
            break
        b, start = item % batch, (tiles - 1 - item // batch) * rows  # the longest first
        stop = min(start + rows, n)
        e = y[b, start:stop]
        e[:] = 0
        for lag in range(stop):
            first = max(start, lag)
            gemm_nn(add, x[b, first - lag : stop - lag], W[lag], y[b, first:stop])
        for t in range(start, stop):
            row, factor = y[b, t], a[b, t]
            for c in range(row.size):
                row[c] *= factor[c]


@worker
def transform_places(x, W, z, counter):
    """One worker's share of z_j = x_j W[j]: the batch's rows meet each matrix while it is in cache."""
    n = x.shape[1]
    put = np.zeros(2, x.dtype)
    put[0] = 1
    while True:
        start = fetch_add(counter, 16)
        if start >= n:
            break
        for j in range(start, min(start + 16, n)):
            gemm_nn(put, x[:, j], W[j], z[:, j])


@worker
def filter_rows(v, table, a, y, counter):
    """One worker's share of y_t = a_t * sum_l table[l] * v_{t-l}: tiles of rows, four lags a pass."""
    batch, n, dim = v.shape
    tiles = (n + FILTER_ROWS - 1) // FILTER_ROWS
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * tiles:
            break
        b, start = item % batch, (tiles - 1 - item // batch) * FILTER_ROWS
        stop = min(start + FILTER_ROWS, n)
        for t in range(start, stop):
            y[b, t] = 0
        for lag in range(0, stop, 4):
            for t in range(max(start, lag), stop):
                row = y[b, t]
                if t >= lag + 3 and lag + 3 < n:
                    w0, w1, w2, w3 = table[lag], table[lag + 1], table[lag + 2], table[lag + 3]
                    v0, v1, v2, v3 = (
                        v[b, t - lag],
                        v[b, t - lag - 1],
                        v[b, t - lag - 2],
                        v[b, t - lag - 3],
                    )
                    for c in range(dim):
                        row[c] += (w0[c] * v0[c] + w1[c] * v1[c]) + (w2[c] * v2[c] + w3[c] * v3[c])
                else:
                    for l in range(lag, min(lag + 4, t + 1)):
                        w0, v0 = table[l], v[b, t - l]
                        for c in range(dim):
                            row[c] += w0[c] * v0[c]
        for t in range(start, stop):
            row, factor = y[b, t], a[b, t]
            for c in range(dim):
                row[c] *= factor[c]


@worker
def sum_places(v, table, a, y, counter):
    """One worker's share of y_t = a_t * sum_{j<=t} table[j] * v_j: a batch element at a time."""
    batch, n, dim = v.shape
    total = scratch.tile(dim, v.dtype)
    while True:
        b = fetch_add(counter, 1)
        if b >= batch:
            break
        for c in range(dim):
            total[c] = 0
        for t in range(n):
            row, source, weight, factor = y[b, t], v[b, t], table[t], a[b, t]
            if weight.size == 1:
                for c in range(dim):
                    total[c] += weight[0] * source[c]
            else:
                for c in range(dim):
                    total[c] += weight[c] * source[c]
            for c in range(dim):
                row[c] = total[c] * factor[c]
