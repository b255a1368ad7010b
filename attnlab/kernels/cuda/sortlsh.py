"""Sign-projection buckets, stable sorting by bucket, and sorted blocks with samples on CUDA.

See kernels/cpu/sortlsh.py for what segments are.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import THREADS, TILE


@cache
def _buckets() -> Any:
    @cuda.jit
    def kernel(x, directions, bucket):
        item = cuda.grid(1)
        if item >= x.shape[0]:
            return
        number = 0
        for t in range(directions.shape[1]):
            along = x[item, 0] * directions[0, t]
            for d in range(1, x.shape[1]):
                along += x[item, d] * directions[d, t]
            if along > 0:
                number |= 1 << t
        bucket[item] = number ^ (number >> 1)

    return kernel


def sign_buckets(x: Any, directions: Any) -> Any:
    """(rows,) Gray code of the signs of x (rows, dim) along directions (dim, r)."""
    bucket = device.empty(x.shape[0], np.int64)
    _buckets()[device.blocks(x.shape[0]), THREADS](x, directions, bucket)
    return bucket


@cache
def _sort() -> Any:
    @cuda.jit
    def kernel(bucket, first, real, place, order):
        t = cuda.threadIdx.x
        segments, rows = order.shape[1], order.shape[2]
        z, s = cuda.blockIdx.x // segments, cuda.blockIdx.x % segments
        begin, count = first[s], real[s]
        starts = place[cuda.blockIdx.x]
        for c in range(t, starts.size, THREADS):
            starts[c] = 0
        cuda.syncthreads()
        for i in range(t, rows, THREADS):  # rows beyond the real ones are zeros, in bucket 0
            cuda.atomic.add(starts, bucket[z, begin + i] if i < count else 0, 1)
        cuda.syncthreads()
        if t == 0:
            total = 0
            for c in range(starts.size):
                size = starts[c]
                starts[c] = total
                total += size
        cuda.syncthreads()
        for c in range(t, starts.size, THREADS):  # a thread a bucket keeps the order of equals
            at = starts[c]
            end = starts[c + 1] if c + 1 < starts.size else rows
            i = 0
            while at < end:
                if (bucket[z, begin + i] if i < count else 0) == c:
                    order[z, s, at] = i
                    at += 1
                i += 1

    return kernel


def sort_by_bucket(bucket: Any, first: Any, real: Any, buckets: int, rows: int) -> Any:
    """order (many, segments, rows): stable, by bucket (many, n); values below `buckets`.

    first, real (segments,): where a segment begins and how many of its rows are not padding.
    """
    many, segments = bucket.shape[0], first.shape[0]
    order = device.empty((many, segments, rows), np.int64)
    place = device.empty((many * segments, buckets), np.int64)
    _sort()[many * segments, THREADS](bucket, first, real, place, order)
    return order


@cuda.jit(device=True)
def load_row(tile, source, z, row, first, width):
    """tile[y, :width] = source[z, row, first : first + width], zero for row -1."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    for c in range(x, width, TILE):
        tile[y, c] = source[z, row, first + c] if row >= 0 else tiles.ZERO


@cache
def _attend(dim: int, dtype: str) -> Any:
    wide, columns = device.slice_width(dim, dtype, tiles=2, others=TILE + 5), -(-dim // TILE)
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(
        q, k, v, order_q, order_k, first_q, real_q, first_k, samples, size, q_size, scale, shift,
        exclude, hide, merges, out, lse,
    ):  # fmt: skip
        queries = cuda.shared.array((TILE, wide), kind)
        shared = cuda.shared.array((TILE, wide), kind)  # keys, then values
        scores = cuda.shared.array((TILE, TILE), kind)
        source = cuda.shared.array(TILE, numba.int64)  # the tile's key rows; -1 is a zero row
        top = cuda.shared.array(TILE, kind)
        total = cuda.shared.array(TILE, kind)
        shrink = cuda.shared.array(TILE, kind)
        acc = cuda.local.array(columns, kind)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        segments, rows, keys = order_q.shape[1], order_q.shape[2], order_k.shape[2]
        tiles_q = (q_size + TILE - 1) // TILE
        blocks = (keys + size - 1) // size
        part, own, rest = tiles.block_place(tiles_q, blocks)
        s, z = rest % segments, rest // segments
        if real_q[s] == 0:
            return
        inside = part * TILE + y  # the query's place in its block
        at = own * q_size + inside
        local = order_q[z, s, at] if inside < q_size and at < rows else real_q[s]
        i = first_q[s] + local if local < real_q[s] else -1
        if dim <= wide:
            load_row(queries, q, z, i, 0, dim)
        tiles.start_rows(top, total, acc, columns)
        drawn = samples[z * segments + s]
        shown = keys - own * size if hide else size
        width = size + drawn.size
        for j0 in range(0, width, TILE):
            cuda.syncthreads()
            if x == 0:
                j = j0 + y
                place = keys
                if j < size:
                    place = own * size + j
                elif j < width:
                    place = drawn[j - size]
                source[y] = first_k[s] + order_k[z, s, place] if place < keys else -1
            score = kind(0)
            for c0 in range(0, dim, wide):
                span = tiles.least(wide, dim - c0)
                cuda.syncthreads()
                if dim > wide:
                    load_row(queries, q, z, i, c0, span)
                load_row(shared, k, z, source[y], c0, span)
                cuda.syncthreads()
                score += tiles.dot(queries, y, shared, x, span)
            j = j0 + x
            score *= scale
            if j >= width or (j < size and j >= shown):
                score = kind(tiles.NEGATIVE)
            elif j >= size:
                score += shift
                if exclude and drawn[j - size] // size == own:
                    score = kind(tiles.NEGATIVE)
            scores[y, x] = score
            tiles.softmax_step(scores, top, total, shrink)
            for c0 in range(0, dim, wide):
                span = tiles.least(wide, dim - c0)
                if c0 > 0:
                    cuda.syncthreads()
                load_row(shared, v, z, source[y], c0, span)
                cuda.syncthreads()
                tiles.accumulate(acc[c0 // TILE :], scores, shared, shrink, span)
        cuda.syncthreads()
        share = kind(0)  # of what was there before
        new = top[y] + math.log(total[y])
        if i >= 0 and merges:
            old = lse[z, i]
            share = tiles.ONE / (tiles.ONE + math.exp(new - old))
            new = old - math.log(share) if share > 0 else new
        cuda.syncthreads()
        if i >= 0:
            for slot in range((dim - x + TILE - 1) // TILE):
                d = x + slot * TILE
                fresh = acc[slot] / total[y]
                out[z, i, d] = (
                    share * out[z, i, d] + (tiles.ONE - share) * fresh if merges else fresh
                )
            if x == 0:
                lse[z, i] = new

    return kernel


def attend_blocks(
    q: Any, k: Any, v: Any, order_q: Any, order_k: Any, first_q: Any, real_q: Any, first_k: Any,
    samples: Any, size: int, q_size: int, scale: float, shift: float, exclude: bool, hide: bool,
    merges: bool, out: Any, lse: Any,
) -> None:  # fmt: skip
    """Sorted query block t attends to [sorted key block t | sampled keys]; into out and lse.

    q, k, v, out (many, rows, dim), lse (many, n); order_q, order_k (many, segments, ·); samples
    (many*segments, S) places in order_k. shift is added to the samples' scores; exclude hides those of the
    own block, hide the zero keys that fill the last block. merges: combine with what is there.
    """
    many, segments, _ = order_q.shape
    dim, kind = q.shape[2], np.dtype(q.dtype)
    blocks = -(-order_k.shape[2] // size)
    grid = segments * blocks * -(-q_size // TILE) * many
    _attend(dim, kind.name)[grid, (TILE, TILE)](
        q, k, v, order_q, order_k, first_q, real_q, first_k, samples, size, q_size, kind.type(scale),
        kind.type(shift), exclude, hide, merges, out, lse,
    )  # fmt: skip
