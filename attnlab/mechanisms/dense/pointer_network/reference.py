"""Pointer networks in NumPy (Vinyals et al. 2015, section 2.3): pointing, the model, beam search."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from . import EXHIBIT, plane


def point(
    K: Float[np.ndarray, "slots hidden"],
    query: Float[np.ndarray, "hidden"],
    v: Float[np.ndarray, "hidden"],
) -> Float[np.ndarray, "slots"]:
    """Equation 3 for one step; K = E W1 is the same for all steps, query = d_t W2."""
    return np.tanh(K + query) @ v


def log_softmax(u: Float[np.ndarray, "slots"]) -> Float[np.ndarray, "slots"]:
    """Logarithms of equation 4's probabilities; finite scores of any size do not overflow."""
    shifted = u - u.max()
    return shifted - np.log(np.exp(shifted).sum())


def lstm_step(
    x: Float[np.ndarray, "2"],
    h: Float[np.ndarray, "hidden"],
    c: Float[np.ndarray, "hidden"],
    weights: tuple[np.ndarray, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Equation 1: the next (h, c)."""
    W_ih, W_hh, b_ih, b_hh = weights
    i, f, g, o = np.split(W_ih @ x + b_ih + W_hh @ h + b_hh, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(z / 2))  # no overflow at either end


def encode(
    points: Float[np.ndarray, "n 2"],
    end: Float[np.ndarray, "hidden"],
    c0: Float[np.ndarray, "hidden"],
    weights: tuple[np.ndarray, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """E = [end, h_1, …, h_n] of equation 2, and the last cell state."""
    E, c = [end], c0
    for x in points:
        h, c = lstm_step(x, E[-1], c, weights)
        E.append(h)
    return np.stack(E), c


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
) -> dict[str, np.ndarray | None]:
    """The distribution over encoder slots at every decoder step (equations 3 to 5).

    Parameters
    ----------
    enc, dec           encoder states (slot 0 included) and decoder states
    enc_len, dec_len   how many of each are real; the rest gives 0
    target             the slot that each real step should point at

    Returns
    -------
    scores, p   (batch, steps, n)
    loss        mean over all real steps of -log p(target); None without targets
    """
    scores = np.zeros((len(enc), dec.shape[1], enc.shape[1]), enc.dtype)
    p, losses = np.zeros_like(scores), []
    for b, (n, steps) in enumerate(zip(enc_len, dec_len)):
        K, Q = enc[b, :n] @ W1, dec[b, :steps] @ W2
        for t in range(steps):
            scores[b, t, :n] = point(K, Q[t], v)
            log_p = log_softmax(scores[b, t, :n])
            p[b, t, :n] = np.exp(log_p)
            if target is not None:
                losses.append(-log_p[target[b, t]])
    loss = np.mean(losses, dtype=enc.dtype) if losses else None
    return {"scores": scores, "p": p, "loss": None if loss is None else np.asarray(loss)}


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
) -> dict[str, np.ndarray]:
    """The model under teacher forcing: logits (batch, steps, length+1), 0 where padded, and the loss.

    points are padded to length, n are real. The decoder starts from the encoder's last state and
    reads start, P[T_1], P[T_2], …; its step t is scored against T_t, the last of which is 0. lstms:
    enc_Wih, enc_Whh, enc_bih, enc_bhh and the same for dec, gate order i, f, g, o.
    """
    encoder, decoder = _lstms(lstms)
    logits = np.zeros((len(points), target.shape[1], points.shape[1] + 1), points.dtype)
    losses = []
    for b, (count, steps) in enumerate(zip(n, target_len)):
        E, c = encode(points[b, :count], end, c0, encoder)
        K, h, x = E @ W1, E[-1], start
        for t in range(steps):
            h, c = lstm_step(x, h, c, decoder)
            u = logits[b, t, : count + 1] = point(K, h @ W2, v)
            losses.append(-log_softmax(u)[target[b, t]])
            x = points[b, target[b, t] - 1]
    return {"logits": logits, "loss": np.asarray(np.mean(losses, dtype=points.dtype))}


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
    """Beam search for each item: tokens (batch, longest), 1-based and ending with 0; their len.

    A beam's cost is the sum of -log p, p softmaxed over the slots that `allowed` leaves. The
    cheapest `beams` go on, ties in order of beam and slot, until all have pointed at 0.
    """
    encoder, decoder = _lstms(lstms)
    found = []
    for P, count in zip(points, n):
        P = P[:count]
        E, c = encode(P, end, c0, encoder)
        K = E @ W1
        live: list[Any] = [(0.0, [], E[-1], c)]  # (cost, tokens, h, c)
        while not all(0 in tokens for _, tokens, _, _ in live):
            grown = []
            for cost, tokens, h, c in live:
                h, c = lstm_step(P[tokens[-1] - 1] if tokens else start, h, c, decoder)
                u = np.where(allowed(tokens, count, task), point(K, h @ W2, v), -np.inf)
                log_p = log_softmax(u)
                grown += [
                    (cost - log_p[j], [*tokens, int(j)], h, c)
                    for j in np.flatnonzero(np.isfinite(u))
                ]
            live = sorted(grown, key=lambda beam: beam[0])[:beams]
        found.append(live[0][1][: live[0][1].index(0) + 1])
    lengths = np.array([len(tokens) for tokens in found])
    return {"tokens": _padded(found, lengths.max()), "len": lengths}


def allowed(tokens: list[int], n: int, task: str) -> np.ndarray:
    """Which of the slots 0 … n may follow the tokens so far."""
    slots = np.ones(n + 1, bool)
    slots[tokens] = False  # no point twice
    slots[0] = False
    if tokens and (0 in tokens or tokens[0] in tokens[1:]):  # finished
        slots[:] = False
        slots[0] = True
    elif task == "hull" and len(tokens) >= 3:
        slots[[0, tokens[0]]] = True
    elif task == "tsp" and len(tokens) == n:
        slots[tokens[0]] = True
    return slots


@EXHIBIT.path
def geometry(
    points: Float[np.ndarray, "batch length 2"],
    n: Int[np.ndarray, "batch"],
    pred: Int[np.ndarray, "batch predicted"],
) -> dict[str, np.ndarray]:
    """Convex hull, shortest tour and Delaunay triangles of each item, and measures of pred.

    hull and tour are closed, triangles flattened; all 1-based and padded with 0. pred is read up to
    its first 0 and may be closed. tour_length, hull_area and coverage (batch,) have the points'
    dtype; is_simple (batch,) bool; polygon_accuracy () is the share of items whose pred is the hull
    from any corner, in the same direction.
    """
    hulls, tours, meshes, rows = [], [], [], []
    for P, count, guess in zip(points.astype(np.float64), n, pred):
        P = P[:count]
        hull, tour, mesh = plane.hull(P), plane.tour(P), plane.triangles(P)
        guess = guess[: np.argmin(np.append(guess, 0))] - 1  # up to the first 0
        ring = guess[:-1] if len(guess) > 1 and guess[0] == guess[-1] else guess
        way = P[tour] - P[np.roll(tour, -1)]
        hull_area = plane.area(P[hull])
        rows.append(
            (
                np.linalg.norm(way, axis=-1).sum(),
                hull_area,
                abs(plane.area(P[ring])) / hull_area,
                plane.is_simple(P[ring]),
                any(np.array_equal(np.roll(ring, r), hull) for r in range(len(ring))),
            )
        )
        hulls.append([*(hull + 1), hull[0] + 1])
        tours.append([*(tour + 1), 1])
        meshes.append((mesh + 1).ravel())
    length, area, coverage, simple, same = (np.array(column) for column in zip(*rows))
    return {
        "hull": _padded(hulls, max(map(len, hulls))),
        "tour": _padded(tours, points.shape[1] + 1),
        "tour_length": length.astype(points.dtype),
        "hull_area": area.astype(points.dtype),
        "triangles": _padded(meshes, max(map(len, meshes))),
        "coverage": coverage.astype(points.dtype),
        "is_simple": simple,
        "polygon_accuracy": np.asarray(same.mean(), points.dtype),
    }


def _lstms(weights: dict[str, np.ndarray]) -> tuple[tuple[np.ndarray, ...], ...]:
    names = ("Wih", "Whh", "bih", "bhh")
    return tuple(tuple(weights[f"{side}_{name}"] for name in names) for side in ("enc", "dec"))


def _padded(rows: list, width: int) -> Int[np.ndarray, "rows width"]:
    out = np.zeros((len(rows), width), np.int64)
    for row, values in zip(out, rows):
        row[: len(values)] = values
    return out
