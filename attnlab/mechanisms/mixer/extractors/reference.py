"""Extractors in NumPy (Chen 2023), one lag or one place after the other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from . import EXHIBIT


def by_lag(v: Float[np.ndarray, "batch n dim"], table: np.ndarray) -> np.ndarray:
    """e_t = sum_{j<=t} of v_j weighted by table[t-j], (batch, n, dim): equations (1) to (4).

    An entry of the table is a matrix (v_j @ entry), a vector (element by element) or a number.
    """
    n = v.shape[1]
    e = np.zeros_like(v)
    for lag in range(n):  # tokens 0 … n-lag-1 reach rows lag … n-1
        past = v[:, : n - lag]
        e[:, lag:] += past @ table[lag] if table.ndim == 3 else past * table[lag]
    return e


def by_place(v: Float[np.ndarray, "batch n dim"], table: np.ndarray) -> np.ndarray:
    """As `by_lag`, with v_j weighted by table[j] whatever t is: a running sum."""
    n = v.shape[1]
    if table.ndim == 3:
        z = np.einsum("bjd,jde->bje", v, table[:n])
    else:
        z = v * (table[:n, None] if table.ndim == 1 else table[:n])
    return np.cumsum(z, axis=1)


@EXHIBIT.path
def extract(
    x: Float[np.ndarray, "batch n dim"],
    W: Float[np.ndarray, "L dim dim"] | None = None,
    w: Float[np.ndarray, "L dim"] | Float[np.ndarray, "L"] | None = None,
    W_shared: Float[np.ndarray, "dim dim"] | None = None,
    W_adj: Float[np.ndarray, "dim dim"] | None = None,
    w_adj: Float[np.ndarray, "dim"] | None = None,
    *,
    kind: str,
    index: str = "lag",
    sqrt_scale: bool = True,
) -> dict[str, np.ndarray]:
    """Add up the earlier tokens, each weighted by its place, and let the current one adjust the sum.

    Parameters
    ----------
    x           token rows, n <= L
    W           SHE: one matrix a place
    w           HE, WE: one vector a place; ME: one number a place
    W_shared    HE: one matrix for all places
    W_adj       the current token's map (SHE, HE, WE); w_adj of ME
    kind        "SHE", "HE", "WE" or "ME", each simpler than the last
    index       a place is the distance to the current token ("lag") or to the start ("absolute")
    sqrt_scale  divide row t (from 0) by sqrt(t+1), which keeps the variance flat

    Returns
    -------
    y           (batch, n, dim), causal

    Raises InputError where x is longer than the tables. Source: equations (1) to (6).
    """
    v = x @ W_shared if kind == "HE" else x
    table = W if kind == "SHE" else w
    assert table is not None  # the declaration has seen to it
    e = by_lag(v, table) if index == "lag" else by_place(v, table)

    a = x * w_adj if kind == "ME" else x @ W_adj  # (5)
    y = e * a
    if sqrt_scale:
        y = y / np.sqrt(np.arange(1, x.shape[1] + 1, dtype=x.dtype))[:, None]
    return {"y": y}  # (6)
