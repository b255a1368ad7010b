"""Mixture-of-head attention in PyTorch, as released: all heads by the fused operator, then gated."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from . import EXHIBIT


def largest(p: Float[Tensor, "*lead m"], K: int) -> Bool[Tensor, "*lead m"]:
    """True at the K largest of each row; the sort is stable, so of equals the lower index wins."""
    order = p.sort(dim=-1, descending=True, stable=True).indices[..., :K]
    return torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, True)


def two_stage(
    x: Float[Tensor, "batch n channels"],
    W_r: Float[Tensor, "routed channels"] | None,
    W_s: Float[Tensor, "n_shared channels"] | None,
    W_h: Float[Tensor, "2 channels"] | None,
    n_head: int,
    n_shared: int,
    top_k: int,
) -> tuple[Tensor, Tensor | None]:
    """See the reference. The choice is a constant: gradients flow through the softmaxes."""
    S, K, E = n_shared, top_k, n_head - n_shared
    lead = x.shape[:2]
    s = S * linear(x, W_s).softmax(-1) if W_s is not None else x.new_ones(*lead, S)
    if K == 0:
        return torch.cat([s, x.new_zeros(*lead, E)], -1), None
    assert W_r is not None
    p = linear(x, W_r).softmax(-1)
    T = largest(p.detach(), K)
    chosen = p * T
    r = K * chosen / chosen.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).eps)
    aux = E * (T.to(x.dtype).mean((0, 1)) * p.mean((0, 1))).sum()
    if W_h is None:
        return r, aux
    a = 2 * linear(x, W_h).softmax(-1)
    return torch.cat([a[..., :1] * s, a[..., 1:] * r], -1), aux


@EXHIBIT.path
def gates(
    x: Float[Tensor, "batch n channels"],
    W_r: Float[Tensor, "routed channels"] | None = None,
    W_s: Float[Tensor, "n_shared channels"] | None = None,
    W_h: Float[Tensor, "2 channels"] | None = None,
    *,
    n_head: int,
    n_shared: int,
    top_k: int,
) -> dict[str, Tensor | None]:
    """See the reference."""
    made, aux = two_stage(x, W_r, W_s, W_h, n_head, n_shared, top_k)
    return {"gates": made, "aux": aux}


@EXHIBIT.path
def attend(
    x: Float[Tensor, "batch n channels"],
    W_qkv: Float[Tensor, "3*n_head*head_dim channels"],
    b_qkv: Float[Tensor, "3*n_head*head_dim"] | None = None,
    *,
    W_o: Float[Tensor, "channels n_head*head_dim"],
    b_o: Float[Tensor, "channels"],
    W_r: Float[Tensor, "routed channels"] | None = None,
    W_s: Float[Tensor, "n_shared channels"] | None = None,
    W_h: Float[Tensor, "2 channels"] | None = None,
    n_head: int,
    n_shared: int,
    top_k: int,
    scale: float | None = None,
) -> dict[str, Tensor | None]:
    """See the reference."""
    batch, n, channels = x.shape
    qkv = linear(x, W_qkv, b_qkv).view(batch, n, 3, n_head, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (batch, n_head, n, head_dim)
    heads = scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)
    g, aux = two_stage(x, W_r, W_s, W_h, n_head, n_shared, top_k)
    y = linear((g[..., None] * heads).reshape(batch, n, channels), W_o, b_o)
    return {"y": y, "gates": g, "heads": heads, "aux": aux}


@EXHIBIT.path
def norm_gates(
    q: Float[Tensor, "batch n heads dim"], *, n_shared: int, top_k: int
) -> dict[str, Tensor]:
    """See the reference. Gates are straight-through: forwards 0 or 1, backwards the scores."""
    norms = q[:, :, n_shared:].norm(dim=-1)
    p = norms if norms.shape[-1] == 0 else (norms / norms.std(-1, keepdim=True)).softmax(-1)
    chosen = largest(p.detach(), top_k).to(q.dtype) + (p - p.detach())
    return {"gates": torch.cat([q.new_ones(*q.shape[:2], n_shared), chosen], -1), "scores": p}
