"""Routing rows to centroids, and attention inside the clusters that result.

route             similarity of every row with every mean, nearest mean, squared distance
choose_members    the rows closest to each mean, by a histogram: no sort
add_members       sums and counts of the rows of each bucket
attend_clusters   gather a cluster's queries, keys and values, attend, keep the result
scatter_mean      back to the original positions, averaged over a row's clusters
"""

import numpy as np

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt
from attnlab.kernels.cpu.flash import transpose_tile
from attnlab.kernels.cpu.runtime import block, fetch_add, worker
from attnlab.kernels.cpu.scratch import packed
from attnlab.kernels.cpu.softmax import finish, start, update

ROWS = 256  # rows routed at once
BINS = 512
FEW = 32  # candidates that are selected by plain comparison
TRANSPOSE_FROM = 65  # with fewer queries a cluster, transposing the keys costs more than it saves


@block
def copy_row(source, target):
    for d in range(target.size):
        target[d] = source[d]


@block
def inverse_length(row):
    """1 / max(length of row, 1e-12)."""
    square = row.dtype.type(0)
    for d in range(row.size):
        square += row[d] * row[d]
    return row.dtype.type(1) / np.sqrt(max(square, row.dtype.type(1e-24)))


@worker
def route(x, means, normalised, sim, bucket, distance, counter):
    """bucket (batch, heads, n) <- nearest mean; distance (batch, heads, tiles) <- sum of squares.

    x (batch, heads, n, dim), means (heads, clusters, dim). sim (batch, heads, clusters, n) <- products,
    or n = 0 there: then they are not kept. normalised: rows are divided by their length first.
    """
    batch, heads, n, dim = x.shape
    clusters = means.shape[1]
    tiles = (n + ROWS - 1) // ROWS
    keep = sim.shape[3] > 0
    product = scratch.tile((1, 2), x.dtype)[0]
    product[0], product[1] = 1, 0
    unit_tile = scratch.tile((ROWS, dim), x.dtype)
    sim_tile = scratch.tile((clusters, ROWS), x.dtype)
    best_tile = scratch.tile((1, ROWS), x.dtype)[0]
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads * tiles:
            break
        b, h, t = item // tiles // heads, item // tiles % heads, item % tiles
        r0, r1 = t * ROWS, min((t + 1) * ROWS, n)
        unit = unit_tile[: r1 - r0]
        for r in range(r1 - r0):
            row, source = unit[r], x[b, h, r0 + r]
            scale = inverse_length(source) if normalised else x.dtype.type(1)
            for d in range(dim):
                row[d] = scale * source[d]
        s = sim[b, h, :, r0:r1] if keep else sim_tile[:, : r1 - r0]
        gemm_nt(product, means[h], unit, s)
        best, nearest = best_tile[: r1 - r0], bucket[b, h, r0:r1]
        copy_row(packed(s[0]), best)
        for r in range(nearest.size):
            nearest[r] = 0
        for c in range(1, clusters):
            row = packed(s[c])
            for r in range(row.size):  # strictly larger: the first maximum wins
                larger = row[r] > best[r]
                best[r] = row[r] if larger else best[r]
                nearest[r] = c if larger else nearest[r]
        total = 0.0
        for r in range(r1 - r0):
            mean, row = means[h, nearest[r]], unit[r]
            square = x.dtype.type(0)
            for d in range(dim):
                apart = row[d] - mean[d]
                square += apart * apart
            total += square
        distance[b, h, t] = total


@block
def threshold(row, w, candidates, histogram):
    """(value, ties): the w-th largest of row is `value`, and `ties` rows equal to it are among the w.

    Narrows the range of values by histograms until few candidates are left. 1 <= w <= row.size.
    """
    pool = row
    while True:
        low, high = pool[0], pool[0]
        for j in range(pool.size):
            low = min(low, pool[j])
            high = max(high, pool[j])
        if low == high:
            return low, w
        if pool.size <= FEW:
            break
        for at in range(BINS):
            histogram[at] = 0
        step = row.dtype.type(BINS - 1) / (high - low)
        for j in range(pool.size):
            histogram[int((pool[j] - low) * step)] += 1
        at, above = BINS - 1, 0
        while above + histogram[at] < w:
            above += histogram[at]
            at -= 1
        w -= above
        kept = 0
        for j in range(pool.size):  # in place once pool is candidates: kept never passes j
            value = pool[j]
            if int((value - low) * step) == at:
                candidates[kept] = value
                kept += 1
        pool = candidates[:kept]
    for j in range(pool.size):
        larger, equal = 0, 0
        for i in range(pool.size):
            larger += pool[i] > pool[j]
            equal += pool[i] == pool[j]
        if larger < w <= larger + equal:
            return pool[j], w - larger
    return low, w  # only NaN comes here


@worker
def choose_members(sim, index, counter):
    """index (batch, heads, clusters, w) <- the w largest of sim (batch, heads, clusters, n), ascending.

    Of equal values the lower row is taken.
    """
    batch, heads, clusters, n = sim.shape
    w = index.shape[3]
    candidates = scratch.tile((1, n), sim.dtype)[0]
    histogram = scratch.tile((1, BINS), np.int64)[0]
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads * clusters:
            break
        b, h, c = item // clusters // heads, item // clusters % heads, item % clusters
        row, chosen = sim[b, h, c], index[b, h, c]
        least, ties = threshold(row, w, candidates, histogram)
        found = 0
        for j in range(n):
            if row[j] >= least and found < w:
                if row[j] == least:
                    if ties == 0:
                        continue
                    ties -= 1
                chosen[found] = j
                found += 1


@worker
def add_members(x, bucket, normalised, total, hits, counter):
    """total (heads, clusters, dim) += rows of each bucket; hits (heads, clusters) += their number."""
    batch, heads, n, dim = x.shape
    while True:
        h = fetch_add(counter, 1)
        if h >= heads:
            break
        for b in range(batch):
            for r in range(n):
                row, c = x[b, h, r], bucket[b, h, r]
                weight = inverse_length(row) if normalised else x.dtype.type(1)
                target = total[h, c]
                for d in range(dim):
                    target[d] += weight * row[d]
                hits[h, c] += 1


@block
def hide_pairs(s, i, j, real_q, real_k, masked, causal, shared, least):
    """Scores of queries i and keys j (positions): hidden ones become `least`, the least finite number."""
    for r in range(i.size):
        row, at = packed(s[r]), i[r]
        for t in range(j.size):
            hidden = masked and not (real_q[at] and real_k[j[t]])
            if hidden or (causal and at < j[t]):
                row[t] = least
            if shared and at == j[t]:  # itself only as a last resort
                row[t] = -5e4


@worker
def attend_clusters(
    q, k, v, q_index, k_index, mem_key, mem_value, real_q, real_k, flags, numbers, tile_q, tile_k,
    attended, counter,
):  # fmt: skip
    """attended (batch, heads, clusters, w, dim) <- each cluster's queries over its slots and keys.

    mem_key, mem_value (heads, clusters, slots, dim); flags: masked, causal, shared; with shared the
    keys k (which are the queries) are divided by their lengths. numbers: [scale, 0, 1, 1, the least
    finite number].
    """
    batch, heads, clusters, w = q_index.shape
    dim, slots = q.shape[3], mem_key.shape[2]
    keys = slots + k_index.shape[3]
    masked, causal, shared = flags[0], flags[1], flags[2]
    score, accumulate, least = numbers[:2], numbers[2:4], numbers[4]
    # gathered once a cluster
    key_rows = scratch.tile((keys, dim), q.dtype)
    values = scratch.tile((keys, dim), q.dtype)
    transposes = w >= TRANSPOSE_FROM
    tiles_k = (keys + tile_k - 1) // tile_k if transposes else 0
    kt = scratch.tile((tiles_k * dim, tile_k), q.dtype)  # tile by tile
    q_rows = scratch.tile((tile_q, dim), q.dtype)
    s_tile = scratch.tile((tile_q, tile_k), q.dtype)
    running = scratch.tile((3, tile_q), q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads * clusters:
            break
        b, h, c = item // clusters // heads, item // clusters % heads, item % clusters
        i, j = q_index[b, h, c], k_index[b, h, c]
        for t in range(slots):
            copy_row(mem_key[h, c, t], key_rows[t])
            copy_row(mem_value[h, c, t], values[t])
        for t in range(slots, keys):
            source, row = k[b, h, j[t - slots]], key_rows[t]
            scale = inverse_length(source) if shared else q.dtype.type(1)
            for d in range(dim):
                row[d] = scale * source[d]
            copy_row(v[b, h, j[t - slots]], values[t])
        for t in range(tiles_k):
            rows_k = key_rows[t * tile_k : min((t + 1) * tile_k, keys)]
            transpose_tile(rows_k, kt[t * dim : (t + 1) * dim])
        for i0 in range(0, w, tile_q):
            i1 = min(i0 + tile_q, w)
            rows = i1 - i0
            for r in range(rows):
                copy_row(q[b, h, i[i0 + r]], q_rows[r])
            acc, m, l = attended[b, h, c, i0:i1], running[0, :rows], running[1, :rows]
            start(m, l, acc)
            for j0 in range(0, keys, tile_k):
                j1 = min(j0 + tile_k, keys)
                s = s_tile[:rows, : j1 - j0]
                if transposes:
                    at = j0 // tile_k * dim
                    gemm_nn(score, q_rows[:rows], kt[at : at + dim, : j1 - j0], s)
                else:
                    gemm_nt(score, q_rows[:rows], key_rows[j0:j1], s)
                if masked or causal or shared:
                    first = max(j0, slots)  # memory slots are never hidden
                    hide_pairs(
                        s[:, first - j0 :], i[i0:i1], j[first - slots : j1 - slots],
                        real_q[b], real_k[b], masked, causal, shared, least,
                    )  # fmt: skip
                update(s, m, l, acc, values[j0:j1], accumulate)
            finish(m, l, acc, running[2, :rows])


@worker
def scatter_mean(attended, index, out, counter):
    """out (batch, heads, n, dim) <- sum of a row's results over its clusters / (their number + 1e-5)."""
    batch, heads, clusters, w = index.shape
    n, dim = out.shape[2:]
    count = scratch.tile((1, n), out.dtype)[0]
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads:
            break
        b, h = item // heads, item % heads
        result = out[b, h]
        for i in range(n):
            count[i] = 0
            target = result[i]
            for d in range(dim):
                target[d] = 0
        for c in range(clusters):
            for r in range(w):
                at, row = index[b, h, c, r], attended[b, h, c, r]
                count[at] += 1
                target = result[at]
                for d in range(dim):
                    target[d] += row[d]
        for i in range(n):
            share = out.dtype.type(1) / (count[i] + out.dtype.type(1e-5))
            target = result[i]
            for d in range(dim):
                target[d] *= share
