"""Additive (Bahdanau) scores v . tanh(K_j + q_t): no product, a tanh for each pair and unit.

The tanh tensor, steps x slots x hidden, never exists: each score is summed as it is made. And since
tanh(k + q) = 1 - 2 / (1 + e^2k e^2q), an exponential for each key and query serves all their pairs.
"""

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.exp import tanh
from attnlab.kernels.cpu.runtime import block, contiguous, fetch_add, run_workers, worker
from attnlab.kernels.cpu.softmax import softmax_row

# e^2x neither overflows nor loses digits below this |x|; NaN is not below it.
SPLITS = {"f": 40.0, "d": 340.0}


@block
def score_row(K, query, v, row):
    """row[j] <- v . tanh(K[j] + query) for every j of row; K (slots or more, hidden)."""
    for j in range(row.size):
        key = K[j]
        total = row.dtype.type(0)
        for u in range(query.size):
            total += v[u] * tanh(key[u] + query[u])
        row[j] = total


@block
def score_row_split(K, query, v, row):
    """`score_row` from e^2K and e^2q. Their product may be 0 or infinite: tanh is then -1 or 1."""
    one = row.dtype.type(1)
    for j in range(row.size):
        key = K[j]
        ahead = total = row.dtype.type(0)
        for u in range(query.size):
            ahead += v[u]
            total += v[u] / (one + key[u] * query[u])
        row[j] = ahead - (total + total)


@worker
def point_rows(K, Q, v, split, slots, steps, target, scores, p, cost, counter):
    """One worker's share of `pointer`: rows (batch element, step), taken from the counter.

    split: K and Q hold e^2K and e^2Q."""
    batch, most_steps = p.shape[:2]
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * most_steps:
            break
        b, t = item // most_steps, item % most_steps
        real = slots[b] if t < steps[b] else 0
        row = p[b, t, :real]
        if split:
            score_row_split(K[b], Q[b, t], v, row)
        else:
            score_row(K[b], Q[b, t], v, row)
        for j in range(real, p.shape[2]):
            p[b, t, j] = 0
        if scores.size > 0:
            for j in range(p.shape[2]):
                scores[b, t, j] = p[b, t, j]
        if real == 0:
            continue
        aimed = row[target[b, t]] if target.size > 0 else row[0]
        log_total = softmax_row(row)
        cost[b, t] = log_total - aimed


def pointer(
    K: Float[np.ndarray, "batch slots hidden"],
    Q: Float[np.ndarray, "batch steps hidden"],
    v: Float[np.ndarray, "hidden"],
    slots: Int[np.ndarray, "batch"],
    steps: Int[np.ndarray, "batch"],
    target: Int[np.ndarray, "batch steps"] | None = None,
    scored: bool = False,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """(scores if scored, their softmax p, -log p(target)); 0 beyond each element's slots and steps.

    scores, p (batch, steps, slots); cost (batch, steps), which without targets means nothing.
    """
    batch, most_steps, _ = Q.shape
    p = scratch.empty((batch, most_steps, K.shape[1]), K.dtype)
    scores = scratch.empty(p.shape if scored else (0, 0, 0), K.dtype)
    cost = np.zeros((batch, most_steps), K.dtype)
    split = max(np.abs(K).max(initial=0), np.abs(Q).max(initial=0)) < SPLITS[K.dtype.char]
    if split:
        K, Q = np.exp(2 * K), np.exp(2 * Q)
    run_workers(
        point_rows,
        *(contiguous(K), contiguous(Q), contiguous(v), bool(split)),
        *(contiguous(slots, np.int64), contiguous(steps, np.int64)),
        np.zeros((0, 0), np.int64) if target is None else contiguous(target, np.int64),
        *(scores, p, cost, np.zeros(1, np.int64)),
        workers=None if p.size * K.shape[2] > 2**16 else 1,
    )
    return (scores if scored else None), p, cost
