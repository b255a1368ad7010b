"""Causal linear attention on CUDA: sums of segments in parallel, a short scan, outputs in parallel.

The state of linear attention is sum_j phi(k_j) v_j^T with phi either the identity or the packed
second-order Taylor map of exp; lambda^(t-j) may fade it. One kernel adds up each segment of the
sequence by itself, one carries the state across segments, one walks through each segment from the
state before it. A block of TILE x TILE threads owns TILE columns of v.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import cuda

from attnlab.contract import BackendUnavailable
from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import SHARED_BYTES, THREADS, TILE
from attnlab.kernels.cuda.tiles import ONE, ZERO, constant

HALF = constant(0.5)


class Scanned(NamedTuple):
    sums: (
        Any  # (batch, heads, n, value_dim), with taylor value_dim + 1: the last is the denominator
    )
    state: Any  # (batch, heads, features, value_dim [+ 1])


def packed_pairs(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The packed Taylor map as products x_i x_j factor of the row [x, 1]: (P, 2) and (P,).

    Order: 1; x; then x_i^2 / sqrt(2) and x_i x_j for j < i, row by row of the lower triangle.
    """
    i, j = np.tril_indices(dim)
    singles = np.stack([np.arange(dim), np.full(dim, dim)], 1)
    pairs = np.concatenate([[[dim, dim]], singles, np.stack([i, j], 1)]).astype(np.int32)
    factors = np.concatenate([np.ones(1 + dim), np.where(i == j, 0.5**0.5, 1.0)])
    return pairs, factors


@cache
def _device_functions(dim: int, taylor: bool) -> Any:
    @cuda.jit(device=True)
    def load(tile, source, first, last, scale):
        """tile[r] = [scale * source[first + r], 1]; rows at or beyond `last` are 0."""
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        row = first + y
        for c in range(x, dim, TILE):
            tile[y, c] = source[row, c] * scale if row < last else ZERO
        if x == 0:
            tile[y, dim] = ONE if row < last else ZERO

    @cuda.jit(device=True)
    def load_values(tile, source, first, last, column):
        """tile[r, x] = source[first + r, column]; one column beyond v is 1, rows and columns
        beyond that are 0."""
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        row = first + y
        value_dim = source.shape[1]
        if row < last and column < value_dim:
            tile[y, x] = source[row, column]
        else:
            tile[y, x] = ONE if row < last and column == value_dim else ZERO

    if taylor:

        @cuda.jit(device=True)
        def feature(tile, row, p, pairs, factors):
            return tile[row, pairs[p, 0]] * tile[row, pairs[p, 1]] * factors[p]

        @cuda.jit(device=True)
        def weight(s):
            return ONE + s * (ONE + s * HALF)

    else:

        @cuda.jit(device=True)
        def feature(tile, row, p, pairs, factors):
            return tile[row, p]

        @cuda.jit(device=True)
        def weight(s):
            return s

    return load, load_values, feature, weight


@cache
def _segment_sums(dim: int, features: int, taylor: bool, dtype: str) -> Any:
    kind = getattr(numba, dtype)
    load, load_values, feature, _ = _device_functions(dim, taylor)
    owned, row = -(-features // TILE), dim + 1

    @cuda.jit
    def kernel(k, v, slopes, scale, pairs, factors, segment, sums):
        keys = cuda.shared.array((TILE, row), kind)
        values = cuda.shared.array((TILE, TILE), kind)
        acc = cuda.local.array(owned, kind)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        heads, n = k.shape[1], k.shape[2]
        down = (sums.shape[4] + TILE - 1) // TILE
        part, right, z = tiles.block_place(sums.shape[2], down)
        b, h, column = z // heads, z % heads, right * TILE + x
        first = part * segment
        stop = tiles.least(first + segment, n)
        for slot in range(owned):
            acc[slot] = 0
        for start in range(first, stop, TILE):
            load(keys, k[b, h], start, stop, scale)
            load_values(values, v[b, h], start, stop, column)
            cuda.syncthreads()
            rows = tiles.least(TILE, stop - start)
            for t in range(rows):
                fade = math.exp(-slopes[h] * kind(stop - 1 - start - t))
                value = values[t, x] * fade
                for p in range(y, features, TILE):
                    acc[p // TILE] += feature(keys, t, p, pairs, factors) * value
            cuda.syncthreads()
        if column < sums.shape[4]:
            for p in range(y, features, TILE):
                sums[b, h, part, p, column] = acc[p // TILE]

    return kernel


@cache
def _carry(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(sums, slopes, segment, n, state):
        """sums <- the state before each segment; one thread an entry of the state."""
        batch, heads, segments, features, columns = sums.shape
        item = cuda.grid(1)
        if item >= batch * heads * features * columns:
            return
        e, p = item % columns, item // columns % features
        h, b = item // columns // features % heads, item // columns // features // heads
        carry = kind(0)
        for s in range(segments):
            rows = tiles.least(segment, n - s * segment)
            added = sums[b, h, s, p, e]
            sums[b, h, s, p, e] = carry
            carry = carry * math.exp(-slopes[h] * kind(rows)) + added
        state[b, h, p, e] = carry

    return kernel


@cache
def _segment_outputs(dim: int, features: int, taylor: bool, fits: bool, dtype: str) -> Any:
    kind = getattr(numba, dtype)
    load, load_values, feature, weight = _device_functions(dim, taylor)
    row = dim + 1

    @cuda.jit
    def kernel(q, k, v, before, slopes, scale, pairs, factors, segment, out):
        queries = cuda.shared.array((TILE, row), kind)
        keys = cuda.shared.array((TILE, row), kind)
        values = cuda.shared.array((TILE, TILE), kind)
        scores = cuda.shared.array((TILE, TILE), kind)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        heads, n = k.shape[1], k.shape[2]
        down = (out.shape[3] + TILE - 1) // TILE
        part, right, z = tiles.block_place(before.shape[2], down)
        b, h, column = z // heads, z % heads, right * TILE + x
        inside = column < out.shape[3]
        first = part * segment
        stop = tiles.least(first + segment, n)
        s = slopes[h]
        if fits:
            at, state = x, cuda.shared.array((features, TILE), kind)
            for p in range(y, features, TILE):
                state[p, x] = before[b, h, part, p, column] if inside else ZERO
        else:  # only this block reads these sums: the state stays where they are
            at, state = column, before[b, h, part]
        for start in range(first, stop, TILE):
            rows = tiles.least(TILE, stop - start)
            load(queries, q[b, h], start, stop, scale)
            load(keys, k[b, h], start, stop, scale)
            load_values(values, v[b, h], start, stop, column)
            cuda.syncthreads()
            seen = x <= y and y < rows
            scores[y, x] = 0
            if seen:
                score = weight(tiles.dot(queries, y, keys, x, dim))
                scores[y, x] = score * math.exp(-s * kind(y - x))
            cuda.syncthreads()
            if inside and y < rows:
                total = kind(0)
                for p in range(features):
                    total += feature(queries, y, p, pairs, factors) * state[p, at]
                total *= math.exp(-s * kind(y + 1))
                for j in range(rows):
                    total += scores[y, j] * values[j, x]
                out[b, h, start + y, column] = total
            cuda.syncthreads()
            if inside:
                fade = math.exp(-s * kind(rows))
                for p in range(y, features, TILE):
                    state[p, at] *= fade
                for t in range(rows):
                    value = values[t, x] * math.exp(-s * kind(rows - 1 - t))
                    for p in range(y, features, TILE):
                        state[p, at] += feature(keys, t, p, pairs, factors) * value
            cuda.syncthreads()

    return kernel


def scan(
    q: Any, k: Any, v: Any, slopes: Any = None, *, taylor: bool = False, segment: int = 64
) -> Scanned:
    """sum_{j<=t} lambda^(t-j) w(q_t, k_j) v_j, and the state after the last row, on device arrays.

    q, k (batch, heads, n, dim), v (batch, heads, n, value_dim), slopes (heads,) or None for no
    decay. w is the inner product; with taylor 1 + s + s^2/2, s = q.k / sqrt(dim), and the sums have
    one more column, of v = 1. segment, rounded up to whole tiles, is how much of the sequence one
    block walks. Raises BackendUnavailable where TILE rows of q and k do not fit in shared memory; a
    state that does not stays in global memory.
    """
    batch, heads, n, dim = q.shape
    dtype = np.dtype(q.dtype)
    columns = v.shape[3] + taylor
    pairs, factors = packed_pairs(dim) if taylor else (np.zeros((1, 2), np.int32), np.ones(1))
    features = len(factors) if taylor else dim
    need = dtype.itemsize * TILE * (2 * (dim + 1) + 2 * TILE)
    if need > SHARED_BYTES:
        raise BackendUnavailable(
            f"backend cuda: heads of {dim} in {dtype} need {need} bytes of shared memory, a block has {SHARED_BYTES}"
        )
    fits = need + dtype.itemsize * TILE * features <= SHARED_BYTES
    out = device.empty((batch, heads, n, columns), dtype)
    if batch * n == 0:
        return Scanned(out, device.zeros((batch, heads, features, columns), dtype))
    state = device.empty((batch, heads, features, columns), dtype)
    segment = min(-(-segment // TILE), -(-n // TILE)) * TILE
    segments = -(-n // segment)
    sums = device.empty((batch, heads, segments, features, columns), dtype)
    slopes = device.zeros(heads, dtype) if slopes is None else slopes
    scale = dtype.type(dim**-0.25 if taylor else 1)
    table = (cuda.to_device(pairs), cuda.to_device(factors.astype(dtype)))
    grid, threads = segments * device.blocks(columns, TILE) * batch * heads, (TILE, TILE)
    added = _segment_sums(dim, features, taylor, dtype.name)
    added[grid, threads](k, v, slopes, scale, *table, segment, sums)
    _carry(dtype.name)[device.blocks(state.size), THREADS](sums, slopes, segment, n, state)
    walked = _segment_outputs(dim, features, taylor, fits, dtype.name)
    walked[grid, threads](q, k, v, sums, slopes, scale, *table, segment, out)
    return Scanned(out, state)
