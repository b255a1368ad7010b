"""Extractors in NumPy (Chen 2023), one lag or one place after the other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from . import EXHIBIT


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
    n = x.shape[1]
    v = x @ W_shared if kind == "HE" else x
    table = W if kind == "SHE" else w
    assert table is not None  # the declaration has seen to it

    if index == "absolute":
        if kind == "SHE":
            z = np.einsum("bjd,jde->bje", v, table[:n])  # (1)
        else:
            z = v * (table[:n, None] if kind == "ME" else table[:n])  # (2), (3), (4)
        e = np.cumsum(z, axis=1)
    else:
        e = np.zeros_like(x)
        for lag in range(n):  # tokens 0 … n-lag-1 reach rows lag … n-1
            past = v[:, : n - lag]
            e[:, lag:] += past @ table[lag] if kind == "SHE" else past * table[lag]

    a = x * w_adj if kind == "ME" else x @ W_adj  # (5)
    y = e * a
    if sqrt_scale:
        y = y / np.sqrt(np.arange(1, n + 1, dtype=x.dtype))[:, None]
    return {"y": y}  # (6)
