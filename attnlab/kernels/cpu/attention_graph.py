"""Attention read as a layered graph: one row of the rollout's product, and maximum flows.

Layer l joins every token above to every token below it, (l, j) -> (l-1, k). Rollout multiplies the
layers' matrices; only the product's first row is asked for, so a row vector goes down the layers and
every layer is read once. Flow asks what passes from the top's token 0 to each token of the bottom.
"""

import numpy as np
from jaxtyping import Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.runtime import (
    block,
    contiguous,
    fetch_add,
    run_workers,
    threads,
    worker,
)

CHUNK = 64  # rows of a layer that one partial sum of the rollout takes in
SPENT = 1e-15  # capacity that counts as used up


@worker
def rollout_rows(attention, layer, row, partial, counter):
    """partial[b, c] <- the share of rows c CHUNK … of one layer in row (batch, n) times A_layer."""
    batch, _, heads, n, _ = attention.shape
    chunks = partial.shape[1]
    mean = scratch.tile(n, attention.dtype)
    share = attention.dtype.type(1) / heads
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * chunks:
            break
        b, c = item // chunks, item % chunks
        out = partial[b, c]
        out[:] = 0
        for j in range(c * CHUNK, min((c + 1) * CHUNK, n)):
            if row[b, j] == 0:
                continue
            first = attention[b, layer, 0, j]
            for k in range(n):
                mean[k] = first[k]
            for h in range(1, heads):
                more = attention[b, layer, h, j]
                for k in range(n):
                    mean[k] += more[k]
            total = attention.dtype.type(0)
            for k in range(n):
                total += mean[k]
            scale = row[b, j] / (total * share + 1)  # the identity adds 1 to the row's norm
            out[j] += scale
            scale *= share
            for k in range(n):
                out[k] += scale * mean[k]


@worker
def strongest_keys(attention, out, counter):
    """out (batch, n) <- the largest over keys of the mean over layers and heads."""
    batch, layers, heads, n, _ = attention.shape
    total = scratch.tile(n, attention.dtype)
    while True:
        begin = fetch_add(counter, CHUNK)
        if begin >= batch * n:
            break
        for item in range(begin, min(begin + CHUNK, batch * n)):
            b, j = item // n, item % n
            total[:] = 0
            for layer in range(layers):
                for h in range(heads):
                    more = attention[b, layer, h, j]
                    for k in range(n):
                        total[k] += more[k]
            best = total[0]
            for k in range(1, n):
                best = max(best, total[k])
            out[b, j] = best / (layers * heads)


def rollout_row(
    attention: Float[np.ndarray, "batch layers heads n n"],
) -> Float[np.ndarray, "batch n"]:
    """Row 0 of A_L … A_1, A_l the row-normalised mean over heads plus the identity; layer 0 is A_1.

    float32 or float64, as the attention. Reads row 0 of the top layer and every other layer once:
    O(layers heads n^2) time and O(n^2 / CHUNK) memory.
    """
    attention = contiguous(attention)
    batch, layers, heads, n, _ = attention.shape
    row = attention[:, -1, :, 0].mean(1)
    row[:, 0] += 1
    row /= row.sum(-1, keepdims=True)
    partial = scratch.empty((batch, -(-n // CHUNK), n), attention.dtype)
    workers = threads() if batch * heads * n * n > 2**18 else 1
    for layer in reversed(range(layers - 1)):
        run_workers(
            rollout_rows, attention, layer, row, partial, np.zeros(1, np.int64), workers=workers
        )
        row = partial.sum(1)
    return row


def strongest_key(
    attention: Float[np.ndarray, "batch layers heads n n"],
) -> Float[np.ndarray, "batch n"]:
    """For each query, the largest weight of the attention averaged over layers and heads."""
    attention = contiguous(attention)
    batch, _, _, n, _ = attention.shape
    out = scratch.empty((batch, n), attention.dtype)
    workers = threads() if attention.size > 2**18 else 1
    run_workers(strongest_keys, attention, out, np.zeros(1, np.int64), workers=workers)
    return out


@block(fastmath=False)
def _room(capacity, flow, node, edge, n):
    """(capacity left, neighbour) of a node's edge: n edges down to the next layer, n back up."""
    layers = capacity.shape[0]
    layer, j = node // n, node % n
    if edge < n:  # down
        if layer == 0:
            return 0.0, 0
        return capacity[layer - 1, j, edge] - flow[layer - 1, j, edge], (layer - 1) * n + edge
    i = edge - n  # what came down from above may be sent back
    if layer == layers:
        return 0.0, 0
    return flow[layer, i, j], (layer + 1) * n + i


@block(fastmath=False)
def _send(flow, node, edge, n, amount):
    layer, j = node // n, node % n
    if edge < n:
        flow[layer - 1, j, edge] += amount
    else:
        flow[layer, edge - n, j] -= amount


@block(fastmath=False)
def _levels(capacity, flow, source, target, n, level, queue):
    """level <- edges from the source in the residual graph, -1 where there is no way; target found?"""
    level[:] = -1
    level[source] = 0
    queue[0] = source
    head, tail = 0, 1
    while head < tail and level[target] < 0:
        node = queue[head]
        head += 1
        for edge in range(2 * n):
            room, other = _room(capacity, flow, node, edge, n)
            if room > SPENT and level[other] < 0:
                level[other] = level[node] + 1
                queue[tail] = other
                tail += 1
    return level[target] >= 0


@block(fastmath=False)
def max_flow(capacity, source, target, flow, level, queue, edge_at, path):
    """The maximum flow by Dinic's algorithm: shortest ways first, all of one length at a time."""
    n = capacity.shape[1]
    flow[:] = 0
    total = 0.0
    while _levels(capacity, flow, source, target, n, level, queue):
        edge_at[:] = 0
        path[0] = source
        depth = 0
        while True:
            node = path[depth]
            if node == target:  # send what the narrowest edge takes, and go back to it
                least = np.inf
                for d in range(depth):
                    room, _ = _room(capacity, flow, path[d], edge_at[path[d]], n)
                    least = min(least, room)
                total += least
                narrow = depth
                for d in range(depth - 1, -1, -1):
                    _send(flow, path[d], edge_at[path[d]], n, least)
                    room, _ = _room(capacity, flow, path[d], edge_at[path[d]], n)
                    if room <= SPENT:
                        narrow = d
                depth = narrow
                continue
            while edge_at[node] < 2 * n:
                room, other = _room(capacity, flow, node, edge_at[node], n)
                if room > SPENT and level[other] == level[node] + 1:
                    break
                edge_at[node] += 1
            if edge_at[node] < 2 * n:
                depth += 1
                path[depth] = other
            elif depth == 0:
                break
            else:  # a dead end
                depth -= 1
                edge_at[path[depth]] += 1
    return total


@worker
def flow_targets(capacity, out, counter):
    """One worker's share of (instance, target) pairs: out[b, t] <- the flow to token t."""
    batch, layers, n, _ = capacity.shape
    nodes = (layers + 1) * n
    flow = scratch.tile((layers, n, n), np.float64)
    level, queue = scratch.tile(nodes, np.int64), scratch.tile(nodes, np.int64)
    edge_at, path = scratch.tile(nodes, np.int64), scratch.tile(nodes, np.int64)
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * n:
            break
        b, t = item // n, item % n
        out[b, t] = max_flow(capacity[b], layers * n, t, flow, level, queue, edge_at, path)


def attention_flow(
    capacity: Float[np.ndarray, "batch layers n n"],
) -> Float[np.ndarray, "batch n"]:
    """The maximum flow from the top layer's token 0 to each token t below the bottom layer.

    capacity[b, l, j, k] is that of the edge from (l+1, j) down to (l, k), at least 0. float64.
    Each target is a problem of its own (Abnar and Zuidema, "Quantifying Attention Flow in
    Transformers", ACL 2020).
    """
    capacity = contiguous(capacity, np.float64)
    batch, _, n, _ = capacity.shape
    out = scratch.empty((batch, n), np.float64)
    workers = threads() if capacity.size * n > 2**16 else 1
    run_workers(flow_targets, capacity, out, np.zeros(1, np.int64), workers=workers)
    return out
