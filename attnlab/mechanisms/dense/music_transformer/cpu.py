"""Relative attention on the CPU: scores read along diagonals of a slab, memory linear in n."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.stride_tricks import as_strided

from attnlab.kernels.cpu.relative import relative_attention

from . import EXHIBIT


def per_head(table: np.ndarray) -> Float[np.ndarray, "heads|1 rows width"]:
    return table if table.ndim == 3 else table[None]


def weights(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    table: Float[np.ndarray, "heads|1 rows dim"],
    first_offset: int,
    seen: Bool[np.ndarray, "#batch #heads #n n"],
    scale: float | None,
) -> Float[np.ndarray, "batch heads n n"]:
    """softmax of the scores where seen; table row r belongs to offset first_offset + r."""
    n, dim = q.shape[2:]
    E = np.zeros((len(table), 2 * n - 1, dim), q.dtype)  # offsets -(n-1) … n-1, 0 outside the table
    begin = n - 1 + first_offset
    rows = slice(max(begin, 0), min(begin + table.shape[1], 2 * n - 1))
    E[:, rows] = table[:, rows.start - begin : rows.stop - begin]
    R = np.ascontiguousarray(q @ E.swapaxes(1, 2))  # (n, 2n-1)
    *lead, row, item = R.strides
    skewed = as_strided(R[..., n - 1 :], k.shape[:2] + (n, n), (*lead, row - item, item))
    scores = (q @ k.swapaxes(2, 3) + skewed) * (dim**-0.5 if scale is None else scale)
    scores = np.where(seen, scores, -np.inf)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    return scores / scores.sum(axis=-1, keepdims=True)


@EXHIBIT.path
def relative_attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n value_dim"],
    rel_k: Float[np.ndarray, "heads distances dim"] | Float[np.ndarray, "distances dim"],
    rel_v: Float[np.ndarray, "heads distances value_dim"]
    | Float[np.ndarray, "distances value_dim"]
    | None = None,
    *,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. The n x n weights are made only when asked for."""
    table = per_head(rel_k)
    first = 1 - table.shape[1]  # the last row is distance 0
    values = None if rel_v is None else per_head(rel_v)
    y, _ = relative_attention(q, k, v, table, values, first_offset=first, scale=scale, causal=True)
    A = None
    if "weights" in want:
        A = weights(q, k, table, first, np.tri(q.shape[2], dtype=bool), scale)
    return {"y": y, "weights": A}


@EXHIBIT.path
def relative_attend_local(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n value_dim"],
    rel_k: Float[np.ndarray, "heads distances dim"] | Float[np.ndarray, "distances dim"],
    *,
    block_length: int,
    scale: float | None = None,
) -> dict[str, np.ndarray]:
    """See the reference. The first block stands alone; the others are a batch of b queries, 2b keys."""
    batch, heads, n, _ = q.shape
    b = n if n < 2 * block_length else block_length
    table = per_head(rel_k)
    how: dict[str, Any] = {"first_offset": 1 - table.shape[1], "scale": scale, "causal": True}
    y = np.empty_like(v)
    y[:, :, :b] = relative_attention(q[:, :, :b], k[:, :, :b], v[:, :, :b], table, **how).out
    later = -(-n // b) - 1
    if later:

        def windows(x: np.ndarray, start: int, size: int) -> np.ndarray:
            """(batch * later, heads, size, ·), one window every b tokens; zeros after the end."""
            padded = np.zeros((batch, heads, (later + 1) * b, x.shape[3]), x.dtype)
            padded[:, :, :n] = x
            seen = np.lib.stride_tricks.sliding_window_view(padded, size, axis=2)[:, :, start::b]
            return np.ascontiguousarray(seen.transpose(0, 2, 1, 4, 3)).reshape(
                batch * later, heads, size, x.shape[3]
            )

        out = relative_attention(
            windows(q, b, b), windows(k, 0, 2 * b), windows(v, 0, 2 * b), table, **how
        ).out
        out = out.reshape(batch, later, heads, b, -1).swapaxes(1, 2)
        y[:, :, b:] = out.reshape(batch, heads, later * b, -1)[:, :, : n - b]
    return {"y": y}


@EXHIBIT.path
def relative_attend_bidirectional(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n value_dim"],
    rel_k: Float[np.ndarray, "heads rows dim"] | Float[np.ndarray, "rows dim"],
    lengths: Int[np.ndarray, "batch"] | None = None,
    *,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. The n x n weights are made only when asked for."""
    table = per_head(rel_k)
    first = -(table.shape[1] // 2)  # the middle row is offset 0
    y, _ = relative_attention(q, k, v, table, first_offset=first, scale=scale, lengths=lengths)
    A = None
    if "weights" in want:
        n = q.shape[2]
        seen = np.arange(n) < (np.array([n]) if lengths is None else lengths)[:, None, None, None]
        A = weights(q, k, table, first, seen, scale)
    return {"y": y, "weights": A}
