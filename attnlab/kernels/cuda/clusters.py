"""Routing rows to centroids and attention inside clusters on CUDA (see kernels/cpu/clusters.py)."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import THREADS, TILE

BINS = THREADS
LAST_BIN = tiles.constant(BINS - 1)


@cache
def _unit() -> Any:
    @cuda.jit
    def kernel(x, first, out):
        item = cuda.grid(1)
        many, n, dim = x.shape
        if item >= many * n:
            return
        row, target = x[item // n, item % n], out[item // n, first + item % n]
        square = x.dtype.type(0)
        for d in range(dim):
            square += row[d] * row[d]
        length = tiles.most(math.sqrt(square), x.dtype.type(1e-12))
        for d in range(dim):
            target[d] = row[d] / length

    return kernel


def unit_rows(x: Any, out: Any, first: int) -> None:
    """out[:, first : first + n] <- rows of x (many, n, dim) divided by their length."""
    _unit()[device.blocks(x.shape[0] * x.shape[1]), THREADS](x, first, out)


@cache
def _nearest() -> Any:
    @cuda.jit
    def kernel(unit, means, sim, bucket, square):
        item = cuda.grid(1)
        many, rows, dim = unit.shape
        if item >= many * rows:
            return
        z, r = item // rows, item % rows
        best = 0
        for c in range(1, sim.shape[1]):  # the first maximum wins
            if sim[z, c, r] > sim[z, best, r]:
                best = c
        total = unit.dtype.type(0)
        for d in range(dim):
            apart = unit[z, r, d] - means[z % means.shape[0], best, d]
            total += apart * apart
        bucket[z, r] = best
        square[z, r] = total

    return kernel


def nearest(unit: Any, means: Any, sim: Any) -> tuple[Any, Any]:
    """Bucket and squared distance of every row: unit (many, rows, dim), sim (many, clusters, rows)."""
    many, rows, _ = unit.shape
    bucket, square = device.empty((many, rows), np.int64), device.empty((many, rows), unit.dtype)
    _nearest()[device.blocks(many * rows), THREADS](unit, means, sim, bucket, square)
    return bucket, square


@cache
def _sum(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(x, scale, out):
        part = cuda.shared.array(THREADS, kind)
        t = cuda.threadIdx.x
        total = kind(0)
        for i in range(t, x.size, THREADS):
            total += x[i]
        part[t] = total
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if t < half:
                part[t] += part[t + half]
            half //= 2
        if t == 0:
            out[0] = part[0] * scale

    return kernel


def scaled_sum(x: Any, scale: float) -> Any:
    """scale * sum of all elements, a device array of shape ()."""
    out, kind = device.empty(1, x.dtype), np.dtype(x.dtype)
    size = int(np.prod(x.shape))
    _sum(kind.name)[1, THREADS](x.reshape(size), kind.type(scale), out)
    return out.reshape(())


@cuda.jit(device=True)
def bin_of(value, low, high):
    """The bin of a value in [low, high], low < high: 0 for low, BINS - 1 for high, in order between.

    Their difference may be subnormal, so that its inverse overflows, or overflow itself.
    """
    if value == low:
        return 0
    share = (value - low) / (high - low)
    return int(share * LAST_BIN) if share < tiles.ONE else BINS - 1


@cuda.jit(device=True)
def defined(value):
    """The value, the least there is for NaN."""
    return value if value == value else tiles.NEGATIVE


@cache
def _members(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(sim, first, rows, index, place):
        low_of = cuda.shared.array(THREADS, kind)
        high_of = cuda.shared.array(THREADS, kind)
        histogram = cuda.shared.array(BINS, numba.int32)
        taken = cuda.shared.array((2, THREADS), numba.int32)
        state = cuda.shared.array(2, numba.int32)  # bin, how many are still wanted
        t = cuda.threadIdx.x
        clusters, w = index.shape[1], index.shape[2]
        z, c = cuda.blockIdx.x // clusters, cuda.blockIdx.x % clusters
        row = sim[z, c, first : first + rows]
        low = high = defined(row[0])
        if t == 0:
            state[0], state[1] = -1, w
        cuda.syncthreads()
        while True:  # narrow [low, high] to the w-th largest value
            small, large = high, low
            for i in range(t, rows, THREADS):
                value = defined(row[i])
                inside = state[0] < 0
                if not inside and low <= value and value <= high:
                    inside = bin_of(value, low, high) == state[0]
                if inside:
                    small, large = tiles.least(small, value), tiles.most(large, value)
            low_of[t], high_of[t] = small, large
            half = THREADS // 2
            while half > 0:
                cuda.syncthreads()
                if t < half:
                    low_of[t] = tiles.least(low_of[t], low_of[t + half])
                    high_of[t] = tiles.most(high_of[t], high_of[t + half])
                half //= 2
            cuda.syncthreads()
            low, high = low_of[0], high_of[0]
            if low == high:
                break
            histogram[t] = 0
            cuda.syncthreads()
            for i in range(t, rows, THREADS):
                value = defined(row[i])
                if low <= value and value <= high:
                    cuda.atomic.add(histogram, bin_of(value, low, high), 1)
            cuda.syncthreads()
            if t == 0:
                at, wanted = BINS - 1, state[1]
                while histogram[at] < wanted:
                    wanted -= histogram[at]
                    at -= 1
                state[0], state[1] = at, wanted
            cuda.syncthreads()
        # each thread takes a run of rows, so that members come out in ascending order
        run = (rows + THREADS - 1) // THREADS
        begin, end = tiles.least(t * run, rows), tiles.least((t + 1) * run, rows)
        above, equal = 0, 0
        for i in range(begin, end):
            value = defined(row[i])
            above += 1 if value > low else 0
            equal += 1 if value == low else 0
        taken[0, t], taken[1, t] = above, equal
        cuda.syncthreads()
        above, equal = 0, 0
        for other in range(t):
            above += taken[0, other]
            equal += taken[1, other]
        for i in range(begin, end):
            place[z, c, i] = -1
            at = above + tiles.least(equal, state[1])
            value = defined(row[i])
            if value > low:
                above += 1
            elif value == low:
                equal += 1
                if equal > state[1]:
                    continue
            else:
                continue
            index[z, c, at] = i
            place[z, c, i] = at

    return kernel


def members(sim: Any, first: int, rows: int, w: int) -> tuple[Any, Any]:
    """The min(w, rows) largest of sim (many, clusters, ·) in columns first .. first + rows.

    index (many, clusters, w) ascending from 0, lower first among equals, NaN last; place (many, clusters, rows)
    a row's place in that list, or -1. A block works on one cluster.
    """
    many, clusters, _ = sim.shape
    index = device.empty((many, clusters, min(w, rows)), np.int64)
    place = device.empty((many, clusters, rows), np.int64)
    _members(np.dtype(sim.dtype).name)[many * clusters, THREADS](sim, first, rows, index, place)
    return index, place


@cuda.jit(device=True)
def load_keys(tile, slots, source, index, first, width):
    """tile[r, :width] = row first + r of the slots and then source[index], zero for rows beyond."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    at, many = first + y, slots.shape[0]
    for d in range(x, width, TILE):
        if at < many:
            tile[y, d] = slots[at, d]
        elif at < many + index.size:
            tile[y, d] = source[index[at - many], d]
        else:
            tile[y, d] = 0


@cache
def _attend(dim: int, dtype: str) -> Any:
    wide, columns = device.slice_width(dim, dtype, tiles=2, others=TILE + 3), -(-dim // TILE)
    kind = getattr(numba, dtype)
    least = float(np.finfo(dtype).min)

    @cuda.jit
    def kernel(
        q, k, v, q_index, k_index, mem_key, mem_value, real_q, real_k, causal, shared_qk, scale, out
    ):
        queries = cuda.shared.array((TILE, wide), kind)
        shared = cuda.shared.array((TILE, wide), kind)  # keys, then values
        scores = cuda.shared.array((TILE, TILE), kind)
        top = cuda.shared.array(TILE, kind)
        total = cuda.shared.array(TILE, kind)
        shrink = cuda.shared.array(TILE, kind)
        acc = cuda.local.array(columns, kind)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        clusters, w = q_index.shape[1], q_index.shape[2]
        heads, slots = mem_key.shape[0], mem_key.shape[2]
        part, c, z = tiles.block_place((w + TILE - 1) // TILE, clusters)
        b, h = z // heads, z % heads
        first = part * TILE
        keys = slots + k_index.shape[2]
        i = q_index[z, c, first + y] if first + y < w else -1
        if dim <= wide:
            tiles.load_gathered(queries, q[z], q_index[z, c], first, w, dim)
        tiles.start_rows(top, total, acc, columns)
        for j0 in range(0, keys, TILE):
            score = kind(0)
            for c0 in range(0, dim, wide):
                width = tiles.least(wide, dim - c0)
                cuda.syncthreads()
                if dim > wide:
                    tiles.load_gathered(queries, q[z, :, c0:], q_index[z, c], first, w, width)
                load_keys(shared, mem_key[h, c, :, c0:], k[z, :, c0:], k_index[z, c], j0, width)
                cuda.syncthreads()
                score += tiles.dot(queries, y, shared, x, width)
            score *= scale
            at = j0 + x
            if at >= keys or i < 0:
                score = kind(tiles.NEGATIVE)
            elif at >= slots:  # memory slots are never hidden
                j = k_index[z, c, at - slots]
                if real_q.shape[1] > 0 and not (real_q[b, i] and real_k[b, j]):
                    score = kind(least)
                if causal and i < j:
                    score = kind(least)
                if shared_qk and i == j:  # itself only as a last resort
                    score = kind(-5e4)
            scores[y, x] = score
            tiles.softmax_step(scores, top, total, shrink)
            for c0 in range(0, dim, wide):
                width = tiles.least(wide, dim - c0)
                if c0 > 0:
                    cuda.syncthreads()
                load_keys(shared, mem_value[h, c, :, c0:], v[z, :, c0:], k_index[z, c], j0, width)
                cuda.syncthreads()
                tiles.accumulate(acc[c0 // TILE :], scores, shared, shrink, width)
        cuda.syncthreads()
        if first + y < w:
            tiles.store_rows(out[z, c], first + y, acc, total, dim)

    return kernel


def attend(
    q: Any, k: Any, v: Any, q_index: Any, k_index: Any, mem_key: Any, mem_value: Any,
    real_q: Any, real_k: Any, causal: bool, shared_qk: bool, scale: float,
) -> Any:  # fmt: skip
    """(many, clusters, w, dim) results of each cluster; q (many, n, dim), k and v (many, keys, dim).

    mem_key, mem_value (heads, clusters, slots, dim); real_q (batch, n|0): no masks if 0.
    """
    many, clusters, w = q_index.shape
    dim, dtype = q.shape[2], np.dtype(q.dtype)
    out = device.empty((many, clusters, w, dim), dtype)
    _attend(dim, dtype.name)[device.blocks(w, TILE) * many * clusters, (TILE, TILE)](
        q, k, v, q_index, k_index, mem_key, mem_value, real_q, real_k, causal, shared_qk,
        dtype.type(scale), out,
    )  # fmt: skip
    return out


@cache
def _scatter_mean() -> Any:
    @cuda.jit
    def kernel(attended, place, out):
        item = cuda.grid(1)
        many, n, dim = out.shape
        if item >= many * n * dim:
            return
        z, i, d = item // dim // n, item // dim % n, item % dim
        total, count = out.dtype.type(0), 0
        for c in range(place.shape[1]):
            at = place[z, c, i]
            if at >= 0:
                total += attended[z, c, at, d]
                count += 1
        out[z, i, d] = total / (out.dtype.type(count) + out.dtype.type(1e-5))

    return kernel


def scatter_mean(attended: Any, place: Any) -> Any:
    """(many, n, dim): each row's results summed over its clusters / (their number + 1e-5)."""
    many, _, n = place.shape
    out = device.empty((many, n, attended.shape[3]), attended.dtype)
    _scatter_mean()[device.blocks(many * n * out.shape[2]), THREADS](attended, place, out)
    return out


@cache
def _lloyd(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(rows, bucket, means, out):
        part = cuda.shared.array(THREADS, kind)
        t = cuda.threadIdx.x
        heads, clusters, dim = means.shape
        h, c = cuda.blockIdx.x // clusters, cuda.blockIdx.x % clusters
        square, hits = kind(0), 0
        for d in range(t, dim, THREADS):
            total = kind(0)
            hits = 0
            for z in range(h, rows.shape[0], heads):
                for r in range(rows.shape[1]):
                    if bucket[z, r] == c:
                        total += rows[z, r, d]
                        hits += 1
            out[h, c, d] = total
            square += total * total
        part[t] = square
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if t < half:
                part[t] += part[t + half]
            half //= 2
        cuda.syncthreads()
        length = tiles.most(math.sqrt(part[0]), kind(1e-12))
        for d in range(t, dim, THREADS):
            out[h, c, d] = out[h, c, d] / length if hits > 0 else means[h, c, d]

    return kernel


def moved(rows: Any, bucket: Any, means: Any) -> Any:
    """One Lloyd step: the direction of each bucket's sum over batch and rows (batch*heads, rows, dim)."""
    heads, clusters, _ = means.shape
    out = device.empty(means.shape, means.dtype)
    _lloyd(np.dtype(means.dtype).name)[heads * clusters, THREADS](rows, bucket, means, out)
    return out


@cache
def _mix() -> Any:
    @cuda.jit
    def kernel(a, b, share, out):
        item = cuda.grid(1)
        if item < out.size:
            out[item] = share * a[item] + (tiles.ONE - share) * b[item]

    return kernel


def mix(a: Any, b: Any, share: float) -> Any:
    """share * a + (1 - share) * b, elementwise."""
    size, kind = int(np.prod(a.shape)), np.dtype(a.dtype)
    out = device.empty(size, kind)
    _mix()[device.blocks(size), THREADS](a.reshape(size), b.reshape(size), kind.type(share), out)
    return out.reshape(*a.shape)
