"""Relative attention in NumPy (Huang et al. 2018, sections 3.4 and 3.5), by padding and reshaping."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from . import EXHIBIT


def skew(R: Float[np.ndarray, "*lead rows columns"]) -> Float[np.ndarray, "*lead rows columns"]:
    """X[i, j] = R[i, j + rows-1-i]: every row moves left by its own offset, without a gather.

    Where j + rows-1-i >= columns, X holds leftovers of the next row of R, which the caller hides.
    """
    *lead, rows, _ = R.shape
    padded = np.pad(R, [(0, 0)] * len(lead) + [(0, 0), (1, 0)])  # a zero column on the left
    return padded.reshape(*lead, -1)[..., rows:].reshape(R.shape)


def unskew(X: Float[np.ndarray, "*lead n n"]) -> Float[np.ndarray, "*lead n n"]:
    """The way back: R[i, n-1-d] = X[i, i-d], for X that is 0 above the diagonal."""
    *lead, n, _ = X.shape
    padded = np.pad(X, [(0, 0)] * len(lead) + [(1, 0), (0, 0)])  # (n + 1, n)
    return padded.reshape(*lead, n, n + 1)[..., 1:]


def last_rows(E: Float[np.ndarray, "*heads M d"], n: int) -> Float[np.ndarray, "*heads n d"]:
    """Distances n-1 … 0: the table's last n rows, zero rows on the left where it is shorter."""
    M = E.shape[-2]
    return np.pad(E, [(0, 0)] * (E.ndim - 2) + [(max(n - M, 0), 0), (0, 0)])[..., -n:, :]


def softmax(S: Float[np.ndarray, "*lead keys"]) -> Float[np.ndarray, "*lead keys"]:
    P = np.exp(S - S.max(axis=-1, keepdims=True))
    return P / P.sum(axis=-1, keepdims=True)


def causal_weights(
    q: Float[np.ndarray, "batch heads rows dim"],
    k: Float[np.ndarray, "batch heads keys dim"],
    E: Float[np.ndarray, "*heads M dim"],
    scale: float | None,
) -> Float[np.ndarray, "batch heads rows keys"]:
    """Equations 1 to 3 up to A; the queries are the last rows of the keys' positions."""
    (rows, dim), keys = q.shape[-2:], k.shape[-2]
    scale = dim**-0.5 if scale is None else scale
    R = q @ last_rows(E, keys).swapaxes(-1, -2)  # (rows, keys), column c is distance keys-1-c
    S = scale * (q @ k.swapaxes(-1, -2) + skew(R))  # (1)
    return softmax(np.where(np.tri(rows, keys, keys - rows, dtype=bool), S, -np.inf))  # (2), (3)


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
) -> dict[str, np.ndarray]:
    """Causal attention whose scores add a learned vector for each distance i - j.

    Parameters
    ----------
    rel_k   the distance table, per head or shared; row M-1-d is distance d, distances >= M score 0
    rel_v   the same, added to the values (equation 4)
    scale   None is 1/sqrt(dim); it multiplies both products

    Returns
    -------
    y         (batch, heads, n, value_dim)
    weights   (batch, heads, n, n), rows summing to 1, 0 above the diagonal
    """
    A = causal_weights(q, k, rel_k, scale)
    y = A @ v  # (3)
    if rel_v is not None:
        y = y + unskew(A) @ last_rows(rel_v, q.shape[2])  # (4)
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
    """Relative attention of each block of block_length tokens to itself and the block before (6).

    rel_k has 4 block_length rows, row M-1-d for distance d. Returns y (batch, heads, n, value_dim).
    """
    n = q.shape[2]
    b = n if n < 2 * block_length else block_length
    y = np.empty_like(v)
    for start in range(0, n, b):
        block, seen = slice(start, start + b), slice(max(start - b, 0), start + b)
        A = causal_weights(q[:, :, block], k[:, :, seen], rel_k, scale)
        y[:, :, block] = A @ v[:, :, seen]
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
) -> dict[str, np.ndarray]:
    """Relative attention in both directions (5); row (j-i) + m-1 of 2m-1 belongs to offset j - i.

    lengths (batch,) hides keys j >= lengths[b]. Returns y and weights as `relative_attend`.
    """
    n, dim = q.shape[2:]
    m = (rel_k.shape[-2] + 1) // 2
    lead = [(0, 0)] * (rel_k.ndim - 2)
    padded = np.pad(rel_k, [*lead, (max(n - m, 0),) * 2, (0, 0)])  # 0 where |j - i| >= m
    middle = padded.shape[-2] // 2
    E = padded[..., middle - n + 1 : middle + n, :]  # (2n-1, dim), offsets -(n-1) … n-1

    R = q @ E.swapaxes(-1, -2)  # (n, 2n-1)
    S = (q @ k.swapaxes(-1, -2) + skew(R)[..., :n]) * (dim**-0.5 if scale is None else scale)
    if lengths is not None:
        S = np.where(np.arange(n) < lengths[:, None, None, None], S, -np.inf)
    A = softmax(S)
    return {"y": A @ v, "weights": A}
