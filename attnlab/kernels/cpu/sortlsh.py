"""Locality-sensitive buckets, stable sorting by bucket, and attention of sorted blocks with samples.

Problems of one size are solved together: `segments` of them, each a range of query rows and a range
of key rows of the same arrays (the levels of a causal recursion; or one segment, everything).
"""

import numpy as np

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.exp import exp_nonpositive
from attnlab.kernels.cpu.flash import transpose_tile
from attnlab.kernels.cpu.runtime import block, fetch_add, worker
from attnlab.kernels.cpu.scratch import packed
from attnlab.kernels.cpu.softmax import finish, start, update

ROWS = 256  # rows hashed at once


@worker
def sign_buckets(x, directions, bucket, counter):
    """bucket (rows,) <- Gray code of the signs of x (rows, dim) along directions (dim, r), r >= 1."""
    rows, r = x.shape[0], directions.shape[1]
    product = scratch.tile((1, 2), x.dtype)[0]
    product[0], product[1] = 1, 0
    tile = scratch.tile((ROWS, r), x.dtype)
    while True:
        i0 = fetch_add(counter, 1) * ROWS
        if i0 >= rows:
            break
        i1 = min(i0 + ROWS, rows)
        signs = tile[: i1 - i0]
        gemm_nn(product, x[i0:i1], directions, signs)
        for i in range(i1 - i0):
            number = 0
            for t in range(r):
                if signs[i, t] > 0:
                    number |= 1 << t
            bucket[i0 + i] = number ^ (number >> 1)


@worker
def sort_by_bucket(bucket, first, real, buckets, order, counter):
    """order (batch, heads, segments, rows) <- stable counting sort of each segment's rows.

    bucket (batch, heads, n), values below `buckets`. Segment s is the rows first[s] .. first[s] +
    real[s] - 1, filled up to `rows` with zero rows, whose bucket is 0.
    """
    batch, heads, segments, rows = order.shape
    place = scratch.tile((1, buckets + 1), np.int64)[0]
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads * segments:
            break
        b, h, s = item // segments // heads, item // segments % heads, item % segments
        values = bucket[b, h, first[s] : first[s] + real[s]]
        for c in range(buckets + 1):
            place[c] = 0
        for i in range(rows):
            place[(values[i] if i < values.size else 0) + 1] += 1
        for c in range(buckets):
            place[c + 1] += place[c]
        for i in range(rows):
            c = values[i] if i < values.size else 0
            order[b, h, s, place[c]] = i
            place[c] += 1


@block
def gather_row(source, row, target):
    """target <- source[row], or zeros for row < 0."""
    for d in range(target.size):
        target[d] = source[row, d] if row >= 0 else target.dtype.type(0)


@block
def hook_samples(s, j0, keys, own, samples, size, shift, exclude):
    """Scores of a tile that begins at column j0 of [own block | samples]: s += shift for samples,
    -inf for samples of block `own` if excluded; columns in [keys, size) are hidden padding."""
    for i in range(s.shape[0]):
        row = packed(s[i])
        for j in range(max(0, keys - j0), min(row.size, size - j0)):
            row[j] = -np.inf
        for j in range(max(0, size - j0), row.size):
            if exclude and samples[j0 + j - size] // size == own:
                row[j] = -np.inf
            else:
                row[j] += shift


@worker
def attend_blocks(
    q, k, v, order_q, order_k, first_q, real_q, first_k, samples, sizes, numbers, exclude, hide, merges,
    out, lse, counter,
):  # fmt: skip
    """Sorted query block t attends to [sorted key block t | sampled keys] in one online softmax.

    order_q, order_k (batch, heads, segments, rows): sorted order within a segment; samples (batch,
    heads*segments, S): places in order_k. sizes: [keys of a block, queries of a block, tile_q,
    tile_k]. numbers: [scale, 0, 1, 1, log(keys/S)]. The last block is filled up with zero keys, hidden if
    `hide`. merges: out and lse hold other keys' attention already; else they are overwritten.
    """
    batch, heads, segments, queries = order_q.shape
    keys, dim, S = order_k.shape[3], q.shape[3], samples.shape[2]
    size, q_size, tile_q, tile_k = sizes[0], sizes[1], sizes[2], sizes[3]
    blocks, columns = (keys + size - 1) // size, size + S
    score, accumulate, shift = numbers[:2], numbers[2:4], numbers[4]
    key_rows = scratch.tile((tile_k, dim), q.dtype)
    kt = scratch.tile(((columns + tile_k - 1) // tile_k * dim, tile_k), q.dtype)  # tile by tile
    values = scratch.tile((columns, dim), q.dtype)
    query_rows = scratch.tile((tile_q, dim), q.dtype)
    acc_tile = scratch.tile((tile_q, dim), q.dtype)
    s_tile = scratch.tile((tile_q, tile_k), q.dtype)
    running = scratch.tile((3, tile_q), q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads * segments * blocks:
            break
        own, rest = item % blocks, item // blocks
        s, h, b = rest % segments, rest // segments % heads, rest // segments // heads
        if real_q[s] == 0:
            continue
        sorted_k, drawn = order_k[b, h, s], samples[b, h * segments + s]
        for j0 in range(0, columns, tile_k):
            j1 = min(j0 + tile_k, columns)
            for j in range(j0, j1):
                at = own * size + j if j < size else drawn[j - size]
                row = first_k[s] + sorted_k[at] if at < keys else -1
                gather_row(k[b, h], row, key_rows[j - j0])
                gather_row(v[b, h], row, values[j])
            at = j0 // tile_k * dim
            transpose_tile(key_rows[: j1 - j0], kt[at : at + dim])
        shown = keys - own * size if hide else columns
        for i0 in range(own * q_size, min((own + 1) * q_size, queries), tile_q):
            i1 = min(i0 + tile_q, (own + 1) * q_size, queries)
            rows = i1 - i0
            for i in range(rows):
                at = order_q[b, h, s, i0 + i]
                gather_row(q[b, h], first_q[s] + at if at < real_q[s] else -1, query_rows[i])
            acc, m, l = acc_tile[:rows], running[0, :rows], running[1, :rows]
            start(m, l, acc)
            for j0 in range(0, columns, tile_k):
                j1 = min(j0 + tile_k, columns)
                tile = s_tile[:rows, : j1 - j0]
                at = j0 // tile_k * dim
                gemm_nn(score, query_rows[:rows], kt[at : at + dim, : j1 - j0], tile)
                if j1 > size or shown < j1:
                    hook_samples(tile, j0, min(shown, size), own, drawn, size, shift, exclude)
                update(tile, m, l, acc, values[j0:j1], accumulate)
            finish(m, l, acc, running[2, :rows])
            for i in range(rows):
                at = order_q[b, h, s, i0 + i]
                if at >= real_q[s]:
                    continue  # a padding row
                row, new = first_q[s] + at, running[2, i]
                target = out[b, h, row]
                if not merges:
                    lse[b, h, row] = new
                    for d in range(dim):
                        target[d] = acc[i, d]
                    continue
                old = lse[b, h, row]
                top = max(old, new)
                both = top + np.log(exp_nonpositive(old - top) + exp_nonpositive(new - top))
                share = exp_nonpositive(old - both)  # of what was there
                lse[b, h, row] = both
                for d in range(dim):
                    target[d] = share * target[d] + (1 - share) * acc[i, d]
