"""Scaled dot-product attention on the CPU: tiles, an online softmax, memory linear in n."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from attnlab.kernels.cpu.flash import flash_attention

from . import EXHIBIT


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
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. The weights, n x keys of them, are made only when asked for: they are
    exp(score - lse) with the log-sum-exp that the kernel returns."""
    out, lse = flash_attention(q, k, v, scale=scale, causal=causal, mask=mask, bias=bias)
    if "weights" not in want:
        return {"out": out, "weights": None}
    heads, n, dim = q.shape[1:]
    keys = k.shape[2]
    scores = q @ np.repeat(k, heads // k.shape[1], axis=1).swapaxes(2, 3)
    scores *= dim**-0.5 if scale is None else scale
    if bias is not None:
        scores += bias
    seen = np.ones((1, 1, 1, 1), bool) if mask is None else mask
    if causal:
        seen = seen & np.tri(n, keys, keys - n, dtype=bool)
    shift = np.where(np.isfinite(lse), lse, 0)[..., None]
    return {"out": out, "weights": np.where(seen, np.exp(scores - shift), 0)}
