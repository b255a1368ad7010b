"""The maximum-flow algorithm, compiled: shortest augmenting paths (Edmonds & Karp, 1972) layer by layer."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from attnlab.kernels.cpu.runtime import block, worker


@block
def _augment(left, back, row, parent, seen, queue, sink, tiny):
    """Sends what one shortest path from the source can carry; 0 where none is left.

    left[l, j, k]: room from state j above map l to state k below it; back[l, j, k]: flow that can be
    returned. Node (l, j) has number l * n + j; states above map 0 are fed by row.
    """
    layers, n = left.shape[0], left.shape[1]
    seen[:] = False
    begin, end = 0, 0
    for j in range(n):
        if row[j] > tiny:
            seen[j] = True
            parent[j] = -1
            queue[end] = j
            end += 1
    goal = layers * n + sink
    while begin < end and not seen[goal]:
        node = queue[begin]
        begin += 1
        l, j = node // n, node % n
        if l < layers:
            for k in range(n):
                below = (l + 1) * n + k
                if not seen[below] and left[l, j, k] > tiny and (l + 1 < layers or k == sink):
                    seen[below] = True
                    parent[below] = node
                    queue[end] = below
                    end += 1
        if l > 0:
            for i in range(n):
                above = (l - 1) * n + i
                if not seen[above] and back[l - 1, i, j] > tiny:
                    seen[above] = True
                    parent[above] = node
                    queue[end] = above
                    end += 1
    if not seen[goal]:
        return 0.0
    room, node = np.inf, goal
    while parent[node] >= 0:
        up = parent[node]
        if up < node - node % n:
            room = min(room, left[up // n, up % n, node % n])
        else:
            room = min(room, back[node // n, node % n, up % n])
        node = up
    room = min(room, row[node])
    row[node] -= room
    node = goal
    while parent[node] >= 0:
        up = parent[node]
        if up < node - node % n:
            left[up // n, up % n, node % n] -= room
            back[up // n, up % n, node % n] += room
        else:
            back[node // n, node % n, up % n] -= room
            left[node // n, node % n, up % n] += room
        node = up
    return room


@worker
def _flows(row, maps, flows):
    layers, n = maps.shape[0], maps.shape[1]
    nodes = (layers + 1) * n
    parent, queue = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    seen = np.empty(nodes, np.bool_)
    for sink in range(n):
        left, back, source = maps.copy(), np.zeros_like(maps), row.copy()
        total = 0.0
        while True:
            sent = _augment(left, back, source, parent, seen, queue, sink, 1e-12)
            if sent <= 0.0:
                break
            total += sent
        flows[sink] = total


def flows_to_each(
    row: Float[np.ndarray, "n"], maps: Float[np.ndarray, "layers n n"]
) -> Float[np.ndarray, "n"]:
    """The maximum flow from the source to each token of the lowest layer; maps from the top down."""
    flows = np.empty(len(row))
    _flows(np.ascontiguousarray(row), np.ascontiguousarray(maps), flows)
    return flows
