"""Pointer networks on the CPU: scores summed as they are made, recurrence in groups of sequences."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import plane, scratch
from attnlab.kernels.cpu.additive import pointer, score_row
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.product import product
from attnlab.kernels.cpu.recurrent import advance, lstm, preactivate
from attnlab.kernels.cpu.runtime import block, fetch_add, run_workers, single_threaded_blas, worker
from attnlab.kernels.cpu.softmax import softmax_row

from . import EXHIBIT
from .plane import triangles


def loss(cost: Float[np.ndarray, "batch steps"], steps: Int[np.ndarray, "batch"]) -> np.ndarray:
    """Equation 5: the mean over the real steps, the others being 0."""
    return np.asarray(cost.sum() / steps.sum(), cost.dtype)


def encode(
    points: Float[np.ndarray, "batch length 2"],
    n: Int[np.ndarray, "batch"],
    end: Float[np.ndarray, "hidden"],
    c0: Float[np.ndarray, "hidden"],
    weights: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E (batch, length+1, hidden) of equation 2 and the last h and c."""
    E = np.empty((len(points), points.shape[1] + 1, len(end)), points.dtype)
    h, c = (np.repeat(x[None], len(points), axis=0) for x in (end, c0))
    bias = weights["enc_bih"] + weights["enc_bhh"]
    E[:, 0] = end
    E[:, 1:], h, c = lstm(points, n, h, c, weights["enc_Wih"], weights["enc_Whh"], bias)
    return E, h, c


@EXHIBIT.path
def attend(
    enc: Float[np.ndarray, "batch n hidden"],
    dec: Float[np.ndarray, "batch steps hidden"],
    enc_len: Int[np.ndarray, "batch"],
    dec_len: Int[np.ndarray, "batch"],
    target: Int[np.ndarray, "batch steps"] | None = None,
    *,
    W1: Float[np.ndarray, "hidden hidden"],
    W2: Float[np.ndarray, "hidden hidden"],
    v: Float[np.ndarray, "hidden"],
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. The steps x n x hidden tanh is never stored."""
    K, Q = product(enc, W1), product(dec, W2)
    scores, p, cost = pointer(K, Q, v, enc_len, dec_len, target, scored="scores" in want)
    return {"scores": scores, "p": p, "loss": None if target is None else loss(cost, dec_len)}


@EXHIBIT.path
def forward(
    points: Float[np.ndarray, "batch length 2"],
    n: Int[np.ndarray, "batch"],
    target: Int[np.ndarray, "batch steps"],
    target_len: Int[np.ndarray, "batch"],
    *,
    start: Float[np.ndarray, "2"],
    end: Float[np.ndarray, "hidden"],
    c0: Float[np.ndarray, "hidden"],
    W1: Float[np.ndarray, "hidden hidden"],
    W2: Float[np.ndarray, "hidden hidden"],
    v: Float[np.ndarray, "hidden"],
    **lstms: np.ndarray,
) -> dict[str, np.ndarray | None]:
    """See the reference."""
    E, h, c = encode(points, n, end, c0, lstms)
    x = np.empty((*target.shape, 2), points.dtype)
    x[:, 0] = start
    # what follows the end is padding, whatever it holds
    chosen = np.clip(target[:, :-1] - 1, 0, points.shape[1] - 1)
    x[:, 1:] = np.take_along_axis(points, chosen[..., None], axis=1)
    bias = lstms["dec_bih"] + lstms["dec_bhh"]
    d, _, _ = lstm(x, target_len, h, c, lstms["dec_Wih"], lstms["dec_Whh"], bias)
    K, Q = product(E, W1), product(d, W2)
    logits, _, cost = pointer(K, Q, v, n + 1, target_len, target, scored=True)
    return {"logits": logits, "loss": loss(cost, target_len)}


@block
def hide_forbidden(row, tokens, step, n, is_hull):
    """row (n+1) <- -inf where the slot may not follow tokens[:step]; see the reference's `allowed`."""
    hidden = row.dtype.type(-np.inf)
    finished = False
    for s in range(step):
        finished = finished or tokens[s] == 0 or (s > 0 and tokens[s] == tokens[0])
    if finished:
        for j in range(1, row.size):
            row[j] = hidden
        return
    stop, home = row[0], row[tokens[0]]
    row[0] = hidden
    for s in range(step):
        row[tokens[s]] = hidden
    if is_hull and step >= 3:
        row[0] = stop
    if step > 0 and (step >= 3 if is_hull else step == n):
        row[tokens[0]] = home


@block
def keep_cheapest(total, source, slot, size, most, cost, beam, j):
    """Insert (cost, beam, j) into the list of the `most` cheapest, after equals; the new size."""
    if size == most and not cost < total[size - 1]:
        return size
    place = min(size, most - 1)
    while place > 0 and cost < total[place - 1]:
        total[place], source[place], slot[place] = (
            total[place - 1],
            source[place - 1],
            slot[place - 1],
        )
        place -= 1
    total[place], source[place], slot[place] = cost, beam, j
    return min(size + 1, most)


@block
def copy_state(h, c, to_h, to_c):
    for u in range(h.size):
        to_h[u] = h[u]
        to_c[u] = c[u]


@worker
def search(
    points, n, K, h0, c0, start, w_x, w_h, bias, W2, v, is_hull, beams, tokens, length, counter
):
    """One worker's share of `decode`: items, taken from the counter. tokens (batch, length+2)."""
    hidden = v.size
    most_steps = tokens.shape[1]
    put, add = np.zeros(2, v.dtype), np.ones(2, v.dtype)
    put[0] = 1
    z_all, q_all = (
        scratch.tile((beams, 4 * hidden), v.dtype),
        scratch.tile((beams, hidden), v.dtype),
    )
    h, c = scratch.tile((2, beams, hidden), v.dtype), scratch.tile((2, beams, hidden), v.dtype)
    row = scratch.tile((2, points.shape[1] + 1), v.dtype)
    cost, total = scratch.tile(beams, v.dtype), scratch.tile(beams, v.dtype)
    source, slot = scratch.tile(beams, np.int64), scratch.tile(beams, np.int64)
    so_far = scratch.tile((2, beams, most_steps), np.int64)
    while True:
        b = fetch_add(counter, 1)
        if b >= points.shape[0]:
            break
        live, now, step = 1, 0, 0
        copy_state(h0[b], c0[b], h[0, 0], c[0, 0])
        cost[0] = 0
        so_far[0, 0, 0] = 0
        while True:
            for i in range(live):
                last = so_far[now, i, step - 1] if step > 0 else 0
                x = start if step == 0 else points[b, max(last - 1, 0)]
                preactivate(x, w_x, bias, z_all[i])
            gemm_nn(add, h[now, :live], w_h, z_all[:live])
            for i in range(live):
                advance(z_all[i], c[now, i], h[now, i])
            gemm_nn(put, h[now, :live], W2, q_all[:live])
            size = 0
            for i in range(live):
                u, p = row[0, : n[b] + 1], row[1, : n[b] + 1]
                score_row(K[b], q_all[i], v, u)
                hide_forbidden(u, so_far[now, i], step, n[b], is_hull)
                for j in range(u.size):
                    p[j] = u[j]
                log_total = softmax_row(p)
                for j in range(u.size):
                    if u[j] > -np.inf:
                        more = cost[i] + (log_total - u[j])
                        size = keep_cheapest(total, source, slot, size, beams, more, i, j)
            other, done = 1 - now, True
            for i in range(size):
                s = source[i]
                copy_state(h[now, s], c[now, s], h[other, i], c[other, i])
                cost[i] = total[i]
                ended = slot[i] == 0
                for t in range(step):
                    so_far[other, i, t] = so_far[now, s, t]
                    ended = ended or so_far[now, s, t] == 0
                so_far[other, i, step] = slot[i]
                done = done and ended
            live, now, step = size, other, step + 1
            if done:
                break
        length[b] = 0
        for t in range(most_steps):  # up to the first 0, and 0 from there
            ended = length[b] > 0 and tokens[b, length[b] - 1] == 0
            tokens[b, t] = 0 if ended else so_far[now, 0, t]
            length[b] += 0 if ended else 1


@EXHIBIT.path
def decode(
    points: Float[np.ndarray, "batch length 2"],
    n: Int[np.ndarray, "batch"],
    *,
    start: Float[np.ndarray, "2"],
    end: Float[np.ndarray, "hidden"],
    c0: Float[np.ndarray, "hidden"],
    W1: Float[np.ndarray, "hidden hidden"],
    W2: Float[np.ndarray, "hidden hidden"],
    v: Float[np.ndarray, "hidden"],
    task: str,
    beams: int = 1,
    **lstms: np.ndarray,
) -> dict[str, np.ndarray]:
    """See the reference."""
    E, h, c = encode(points, n, end, c0, lstms)
    tokens = scratch.empty((len(points), points.shape[1] + 2), np.int64)
    length = scratch.empty(len(points), np.int64)
    K = product(E, W1)
    with single_threaded_blas():
        run_workers(
            search,
            *(points, n, K, h, c, start),
            *(np.ascontiguousarray(lstms[f"dec_{name}"].T) for name in ("Wih", "Whh")),
            lstms["dec_bih"] + lstms["dec_bhh"],
            *(W2, v, task == "hull", beams, tokens, length, np.zeros(1, np.int64)),
        )
    return {"tokens": tokens[:, : length.max()], "len": length}


@worker
def measure(points, n, pred, hulls, corners, tours, numbers, simple, same, counter):
    """One worker's share of `geometry`, triangles left out: items, taken from the counter.

    hulls, tours: closed, 1-based; numbers (batch, 3): tour length, hull area, coverage.
    """
    ring_all = scratch.tile(pred.shape[1], np.int64)
    corners_all = scratch.tile(2 * points.shape[1] + 2, np.int64)
    way_all = scratch.tile(points.shape[1], np.int64)
    while True:
        b = fetch_add(counter, 1)
        if b >= points.shape[0]:
            break
        P, way = points[b, : n[b]], way_all[: n[b]]
        size = plane.hull(P, corners_all)
        corners[b] = size
        numbers[b, 0] = plane.tour(P, way)
        for s in range(hulls.shape[1]):
            hulls[b, s] = corners_all[s % size] + 1 if s <= size else 0
            tours[b, s] = way[s % way.size] + 1 if s <= way.size else 0
        m = 0
        while m < pred.shape[1] and pred[b, m] > 0:
            ring_all[m] = pred[b, m] - 1
            m += 1
        if m > 1 and ring_all[0] == ring_all[m - 1]:
            m -= 1
        ring = ring_all[:m]
        numbers[b, 1] = plane.area(P, corners_all[:size])
        numbers[b, 2] = abs(plane.area(P, ring)) / numbers[b, 1]
        simple[b] = plane.is_simple(P, ring)
        same[b] = False
        if m == size:
            for turn in range(m):
                equal = True
                for s in range(m):
                    equal = equal and ring[(s + turn) % m] == corners_all[s]
                same[b] = same[b] or equal


@EXHIBIT.path
def geometry(
    points: Float[np.ndarray, "batch length 2"],
    n: Int[np.ndarray, "batch"],
    pred: Int[np.ndarray, "batch predicted"],
) -> dict[str, np.ndarray]:
    """See the reference; the Delaunay triangles are Qhull's in both."""
    batch, most, _ = points.shape
    exact = points.astype(np.float64)
    hulls, tours = (scratch.empty((batch, most + 1), np.int64) for _ in range(2))
    corners, numbers = scratch.empty(batch, np.int64), scratch.empty((batch, 3), np.float64)
    simple, same = np.empty((2, batch), bool)
    counter = np.zeros(1, np.int64)
    run_workers(measure, exact, n, pred, hulls, corners, tours, numbers, simple, same, counter)
    meshes = [triangles(P[:count]).ravel() + 1 for P, count in zip(exact, n)]
    padded = np.zeros((batch, max(map(len, meshes))), np.int64)
    for row, mesh in zip(padded, meshes):
        row[: len(mesh)] = mesh
    length, area, coverage = numbers.T.astype(points.dtype)
    return {
        "hull": hulls[:, : corners.max() + 1],
        "tour": tours,
        "tour_length": length,
        "hull_area": area,
        "triangles": padded,
        "coverage": coverage,
        "is_simple": simple,
        "polygon_accuracy": np.asarray(same.mean(), points.dtype),
    }
