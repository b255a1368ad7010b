"""Attention calibration in NumPy (Yu et al. 2024), as the authors' code does it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from . import EXHIBIT


@EXHIBIT.path
def calibrated_attend(
    q: Float[np.ndarray, "1 h n dim"],
    k: Float[np.ndarray, "1 h n dim"],
    v: Float[np.ndarray, "1 h n value_dim"],
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
) -> dict[str, np.ndarray]:
    """Causal attention of one sequence; later sinks keep the share beta of their weight.

    Parameters
    ----------
    q, k, v     queries, keys, values; scores are q . k / sqrt(dim)
    beta        0 removes a sink, 1 changes nothing
    threshold   column mean above which a key is a sink
    alpha       threshold alpha / n instead (the paper's form)
    heads       heads to calibrate; None is all

    Returns
    -------
    probs, probs_calibrated   (1, h, n, n) the map before and after
    column_mean, sink_mask    (h, n); the mask is S', False in heads left alone
    out                       (1, h, n, value_dim)

    Raises InputError for a head out of range, beta outside [0, 1], threshold or alpha <= 0.
    """
    n, dim = q.shape[2:]
    S = np.einsum("hkd,htd->hkt", q[0], k[0]) * dim**-0.5
    S = np.where(np.tri(n, dtype=bool), S, -np.inf)  # query k sees keys t <= k
    A = np.exp(S - S.max(axis=-1, keepdims=True))
    A /= A.sum(axis=-1, keepdims=True)

    mean, sinks, calibrated = edit(A, n - np.arange(n), beta, threshold, alpha, heads)
    return {
        "probs": A[None],
        "column_mean": mean,
        "sink_mask": sinks,
        "probs_calibrated": calibrated[None],
        "out": np.einsum("hkt,htd->hkd", calibrated, v[0])[None],
    }


@EXHIBIT.path
def calibrate(
    A: Float[np.ndarray, "h n n"],
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
    causal: bool = True,
) -> dict[str, np.ndarray]:
    """The edit on a given map whose rows sum to 1; without `causal`, all n queries see each key.

    Raises InputError for rows that do not sum to 1, negative weights, or (causal) weight on the
    future.
    """
    n = A.shape[1]
    visible = n - np.arange(n) if causal else np.full(n, n)
    mean, sinks, calibrated = edit(A, visible, beta, threshold, alpha, heads)
    return {"column_mean": mean, "sink_mask": sinks, "A_calibrated": calibrated}


@EXHIBIT.path
def streaming_attend(
    q: Float[np.ndarray, "1 h 1 dim"],
    k: Float[np.ndarray, "1 h n dim"],
    v: Float[np.ndarray, "1 h n value_dim"],
    column_sum: Float[np.ndarray, "h n"],
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
) -> dict[str, np.ndarray]:
    """The newest token's row alone, calibrated by the column sums of all rows up to it.

    column_sum comes in with the sums of the earlier plain rows (0 for the newest key) and goes
    out with this row added. The last row of `calibrated_attend` is the same.
    """
    h, n, dim = k.shape[1:]
    S = np.einsum("hd,htd->ht", q[0, :, 0], k[0]) * dim**-0.5
    a = np.exp(S - S.max(axis=-1, keepdims=True))
    a /= a.sum(axis=-1, keepdims=True)
    column_sum = column_sum + a
    sinks = later_sinks(column_sum / (n - np.arange(n)), threshold, alpha, chosen(heads, h))
    out = np.einsum("ht,htd->hd", move(a[:, None], sinks, beta)[:, 0], v[0])
    return {"sink_mask": sinks, "out": out[None, :, None], "column_sum": column_sum}


def edit(
    A: Float[np.ndarray, "h n n"],
    visible: Int[np.ndarray, "n"],
    beta: float,
    threshold: float,
    alpha: float | None,
    heads: list[int] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(1)-(6) on A (h, n, n): column means, S' as a mask, the calibrated map."""
    mean = A.sum(axis=1) / visible.astype(A.dtype)  # (1)
    sinks = later_sinks(mean, threshold, alpha, chosen(heads, len(A)))
    # (6) needs no line: row 0 of a causal map is [1, 0, …], and 0 is never in S'.
    return mean, sinks, move(A, sinks, beta)


def chosen(heads: list[int] | None, h: int) -> np.ndarray:
    return np.isin(np.arange(h), np.arange(h) if heads is None else heads)


def later_sinks(
    mean: Float[np.ndarray, "h n"],
    threshold: float,
    alpha: float | None,
    edited: Bool[np.ndarray, "h"],
) -> Bool[np.ndarray, "h n"]:
    """(2): the mask of S' from column means, False in heads that are not `edited`.

    The first sink of each head is spared, wherever it is. A key is a sink above `threshold`, or above
    alpha / n where alpha is given.
    """
    sinks = mean > (threshold if alpha is None else alpha / mean.shape[1])
    first = np.cumsum(sinks, axis=1) == 1
    return sinks & ~first & edited[:, None]


def move(
    A: Float[np.ndarray, "h rows n"], sinks: Bool[np.ndarray, "h n"], beta: float
) -> Float[np.ndarray, "h rows n"]:
    """(3)-(5): rows A whose sinks keep the share beta, and the other keys get the rest of it.

    Rows keep their sum; one that lies entirely on sinks stays as it is.
    """
    on_sinks = np.where(sinks[:, None], A, 0)
    free = (1 - beta) * on_sinks.sum(axis=-1, keepdims=True)  # (3)
    R = np.where(sinks[:, None], 0, A)  # (4)
    rho = R.sum(axis=-1, keepdims=True)
    return np.where(rho > 0, beta * on_sinks + R + free * R / np.where(rho > 0, rho, 1), A)  # (5)
