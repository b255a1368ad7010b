"""Scaled dot-product attention in PyTorch: the fused operator, or the weights when asked for."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from . import EXHIBIT


@EXHIBIT.path
def attend(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    mask: Bool[Tensor, "#batch #heads #n keys"] | None = None,
    bias: Float[Tensor, "#batch #heads n keys"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Tensor | None]:
    """See the reference. Without weights this is torch's fused kernel: no n x n matrix is stored."""
    n, keys = q.shape[2], k.shape[2]
    triangle = None
    if causal and (n != keys or mask is not None or bias is not None or "weights" in want):
        triangle = torch.ones(n, keys, dtype=torch.bool, device=q.device).tril(keys - n)
    seen = mask if triangle is None else triangle if mask is None else mask & triangle
    if bias is not None and (barred := bias.isneginf()).any():
        seen = ~barred if seen is None else seen & ~barred
    blind = None if seen is None else ~seen.any(-1, keepdim=True)  # queries that see nothing

    if "weights" not in want:
        shift = (
            bias if seen is None else seen if bias is None else bias.masked_fill(~seen, -torch.inf)
        )
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=shift,
            is_causal=causal and triangle is None,
            scale=scale,
            enable_gqa=k.shape[1] != q.shape[1],
        )
        return {"out": out if blind is None else out.masked_fill(blind, 0), "weights": None}

    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    S = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        S = S + bias
    if seen is not None:
        S = S.masked_fill(~seen, -torch.inf)
    A = S.softmax(-1)
    if blind is not None:
        A = A.masked_fill(blind, 0)
    return {"out": A @ v, "weights": A}
