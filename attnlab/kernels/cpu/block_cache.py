"""Decoding from a cache of key blocks: score each block's landmark, fetch the best blocks, attend.

Keys are cached before rotary positions and turned where they are used. Two workers: the first
makes, head by head, the probabilities by which blocks are chosen; the second attends, query by query.
"""

import numpy as np

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nt
from attnlab.kernels.cpu.landmark import weigh_blocks
from attnlab.kernels.cpu.runtime import block, fetch_add, worker
from attnlab.kernels.cpu.softmax import softmax_row
from attnlab.kernels.cpu.vector import dot


@block
def turn_row(x, cos, sin, position, turned):
    """turned <- the pairs of x turned by the angles of a position; backwards if it is negative."""
    c, s = cos[abs(position)], sin[abs(position)]
    for p in range(c.size):
        sine = s[p] if position >= 0 else -s[p]
        even, odd = x[2 * p], x[2 * p + 1]
        turned[2 * p] = even * c[p] - odd * sine
        turned[2 * p + 1] = odd * c[p] + even * sine


@block
def turned_dot(q, k, c, s):
    """q . turn(k) by the angles with cosines c and sines s."""
    total = q.dtype.type(0)
    for p in range(c.size):
        even, odd = q[2 * p], q[2 * p + 1]
        total += c[p] * (even * k[2 * p] + odd * k[2 * p + 1])
        total += s[p] * (odd * k[2 * p] - even * k[2 * p + 1])
    return total


@block
def best_blocks(p, chosen):
    """chosen (K,) <- numbers of the K largest of p, ascending; the earlier of equals."""
    K = chosen.size
    found = 0
    for r in range(p.size):
        if found == K and not p[r] > p[chosen[K - 1]]:
            continue
        place = found if found < K else K - 1
        while place > 0 and p[r] > p[chosen[place - 1]]:
            if place < K:
                chosen[place] = chosen[place - 1]
            place -= 1
        chosen[place] = r
        found = min(found + 1, K)
    for a in range(1, K):  # in time order; a library sort costs a second to compile
        r, place = chosen[a], a
        while place > 0 and chosen[place - 1] > r:
            chosen[place] = chosen[place - 1]
            place -= 1
        chosen[place] = r


@worker
def score_landmarks(
    q, local_k, block_k, cos, sin, at, rotary, scale, turned_q, turned_k, p, counter
):
    """Head by head: rotate queries and local keys, and p (heads, T, blocks) <- softmax over blocks.

    Without rotary positions turned_q is q, turned_k is local_k, and neither is written.
    at: [first cached block, blocks, K, position of the first query, local keys before it].
    """
    heads, T, dim = q.shape
    b = block_k.shape[2]
    first, blocks, K, begin, tail = at[0], at[1], at[2], at[3], at[4]
    back = scratch.tile((T, dim), q.dtype)
    while True:
        h = fetch_add(counter, 1)
        if h >= heads:
            break
        if rotary:
            for t in range(T):
                turn_row(q[h, t], cos, sin, begin + t, turned_q[h, t])
            for j in range(local_k.shape[1]):
                turn_row(local_k[h, j], cos, sin, begin - tail + j, turned_k[h, j])
        r = 0
        while r < blocks:  # landmarks of one slot stand at one position: turn the query back by it
            slot = max(r - (blocks - K) + 1, 0)
            last = r + 1 if slot > 0 else max(r + 1, min(blocks, blocks - K))
            for t in range(T):
                query, behind = turned_q[h, t], back[t]
                for d in range(dim):
                    behind[d] = query[d]
                if rotary:
                    turn_row(query, cos, sin, -(slot * b + b - 1), behind)
            gemm_nt(scale, back, block_k[h, first + r : first + last, b - 1], p[h, :, r:last])
            r = last
        for t in range(T):
            softmax_row(p[h, t])


@worker
def attend_retrieved(
    q,
    local_k,
    local_v,
    block_k,
    block_v,
    p,
    ends,
    cos,
    sin,
    at,
    rotary,
    scale,
    out,
    weights,
    counter,
):
    """Query by query: choose blocks by p, score [retrieved | local], weigh, add up the values.

    weights (heads, T, row), or with no row: then they live in scratch memory.
    """
    heads, T, dim = q.shape
    b, tail = block_k.shape[2], at[4]
    first, blocks, K = at[0], at[1], at[2]
    chosen = scratch.tile((1, min(K, blocks)), np.int64)[0]
    retrieved = chosen.size * b
    width = retrieved + local_k.shape[1]
    scores = scratch.tile((1, width), q.dtype)
    running = scratch.tile((2, 1), q.dtype)
    m, l = running[0], running[1]
    nothing = scratch.tile((1, 0), q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= heads * T:
            break
        h, t = item // T, item % T
        best_blocks(p[h, t], chosen)
        row, query = scores[0], q[h, t]
        for j in range(chosen.size):
            position = j * b + (b if chosen[j] - (blocks - K) + 1 > 0 else 0)
            keys = block_k[h, first + chosen[j]]
            for i in range(b):
                if rotary:
                    score = turned_dot(query, keys[i], cos[position + i], sin[position + i])
                else:
                    score = dot(query, keys[i])
                row[j * b + i] = score * scale[0]
        here = tail + t  # the query's own place among the local keys
        for i in range(here + 1):
            row[retrieved + i] = dot(query, local_k[h, i]) * scale[0]
        for i in range(retrieved + here + 1, width):
            row[i] = 0
        m[0], l[0] = -np.inf, 0
        seen = scores[:, : retrieved + here + 1]
        weigh_blocks(seen, retrieved + here, 0, ends, 0, m, l, nothing)
        inverse = 1 / l[0] if l[0] > 0 else l[0]
        for j in range(row.size):
            row[j] *= inverse
        summed = out[h, t]
        for d in range(dim):
            summed[d] = 0
        for j in range(retrieved + here + 1):
            value = (
                block_v[h, first + chosen[j // b], j % b]
                if j < retrieved
                else local_v[h, j - retrieved]
            )
            for d in range(dim):
                summed[d] += row[j] * value[d]
        if weights.shape[2] > 0:
            kept = weights[h, t]
            for j in range(width):
                kept[j] = row[j]
