"""Scaled dot-product attention in NumPy (Vaswani et al. 2017, section 3.2.1)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from . import EXHIBIT


def softmax(
    S: Float[np.ndarray, "*lead keys"], seen: Bool[np.ndarray, "#*lead keys"]
) -> Float[np.ndarray, "*lead keys"]:
    """Softmax of each row over the keys where `seen`; 0 elsewhere, and in a row that sees nothing."""
    S = np.where(seen, S, -np.inf)
    top = S.max(axis=-1, keepdims=True)
    P = np.exp(S - np.where(np.isfinite(top), top, 0))  # a row that sees nothing becomes 0, not NaN
    total = P.sum(axis=-1, keepdims=True)
    return P / np.where(total > 0, total, 1)


@EXHIBIT.path
def attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch kv_heads keys dim"],
    v: Float[np.ndarray, "batch kv_heads keys value_dim"],
    mask: Bool[np.ndarray, "#batch #heads #n keys"] | None = None,
    bias: Float[np.ndarray, "#batch #heads n keys"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> dict[str, np.ndarray]:
    """Every query's average of the values, weighted by softmax(scale q k^T).

    Parameters
    ----------
    q, k, v   queries, keys and values; grouped-query heads share keys and values
    mask      True where query i may see key j
    bias      added to the scores
    causal    query i sees keys j <= i + keys - n
    scale     None is 1/sqrt(dim)

    Returns
    -------
    out       (batch, heads, n, value_dim); 0 where a query sees nothing
    weights   (batch, heads, n, keys), rows summing to 1
    """
    heads, n, dim = q.shape[1:]
    groups = heads // k.shape[1]
    k, v = (np.repeat(x, groups, axis=1) for x in (k, v))  # (batch, heads, keys, ·)
    keys = k.shape[2]

    S = np.einsum("bhid,bhjd->bhij", q, k) * (dim**-0.5 if scale is None else scale)
    if bias is not None:
        S = S + bias
    seen = np.tri(n, keys, keys - n, dtype=bool) if causal else np.ones((n, keys), bool)
    if mask is not None:
        seen = seen & mask
    A = softmax(S, seen)
    return {"out": np.einsum("bhij,bhjd->bhid", A, v), "weights": A}
