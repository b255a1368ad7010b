"""BASED in PyTorch: the Taylor map block by block, the window in overlapping tiles."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv1d, linear, pad, scaled_dot_product_attention, silu

from attnlab.layers.heads import merge_heads, split_heads
from attnlab.layers.rotary import rotate_halves, tables

from . import EXHIBIT

BLOCK = 128


@EXHIBIT.path
def taylor_linear_attention(
    x: Float[Tensor, "batch n dim"],
    w_q: Float[Tensor, "num_heads*feature_dim dim"],
    w_k: Float[Tensor, "num_heads*feature_dim dim"],
    w_v: Float[Tensor, "num_heads*head_dim dim"],
    w_o: Float[Tensor, "dim num_heads*head_dim"],
    x_next: Float[Tensor, "batch steps dim"] | None = None,
    *,
    num_heads: int,
    eps: float = 1e-12,
) -> dict[str, Tensor]:
    """See the reference. Linear in n: within a block the polynomial, before it the state."""
    q, k, v = (split_heads(x @ w.T, num_heads) for w in (w_q, w_k, w_v))
    ones = v.new_ones(1).expand(*v.shape[:3], 1)
    columns = torch.cat([v, ones], -1)  # the denominator is one more value column
    S = q.new_zeros(*q.shape[:2], packed_size(q.shape[-1]), columns.shape[-1])
    parts = []
    for Q, K, V in zip(*(t.split(BLOCK, dim=2) for t in (q, k, columns))):
        s = Q @ K.mT / Q.shape[-1] ** 0.5
        parts.append((1 + s + s**2 / 2).tril() @ V + packed_map(Q) @ S)
        S = S + packed_map(K).mT @ V
    sums = torch.cat(parts, 2)
    y = merge_heads(sums[..., :-1] / (sums[..., -1:] + eps)) @ w_o.T
    full = unpack(S, q.shape[-1])
    KV, z = full[..., :-1].mT, full[..., -1]
    out = {"y": y, "q": q, "k": k, "v": v, "kv_state": KV, "k_state": z}
    if x_next is not None:
        steps = [split_heads(x_next @ w.T, num_heads) for w in (w_q, w_k, w_v)]
        decoded = []
        for q, k, v in zip(*(part.unbind(2) for part in steps)):
            phi_q, phi_k = taylor_map(q), taylor_map(k)
            KV, z = KV + v[..., None] * phi_k[..., None, :], z + phi_k
            below = (z * phi_q).sum(-1, keepdim=True) + eps
            decoded.append((KV @ phi_q[..., None])[..., 0] / below)
        out["y_next"] = merge_heads(torch.stack(decoded, 2)) @ w_o.T
    return out


def packed_size(d: int) -> int:
    """Width of the packed map (5)."""
    return 1 + d + d * (d + 1) // 2


def packed_map(x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows 1+d+d*(d+1)//2"]:
    """Equation (5): the inner products of (1) with each pair of features once."""
    d = x.shape[-1]
    i, j = torch.tril_indices(d, d, -1, device=x.device)
    parts = [x / d**0.25, x**2 / (2 * d) ** 0.5, x[..., i] * x[..., j] / d**0.5]
    return torch.cat([torch.ones_like(x[..., :1]), *parts], -1)


def unpack(S: Float[Tensor, "*heads packed e"], d: int) -> Float[Tensor, "*heads 1+d+d**2 e"]:
    """A state over the packed map as the state over phi: each pair twice, over sqrt(2)."""
    i, j = torch.tril_indices(d, d, -1, device=S.device)
    where = torch.diag(torch.arange(1 + d, 1 + 2 * d, device=S.device))
    where[i, j] = where[j, i] = torch.arange(1 + 2 * d, packed_size(d), device=S.device)
    share = torch.full((d, d), 0.5**0.5, dtype=S.dtype, device=S.device).fill_diagonal_(1)
    pairs = S[..., where.flatten(), :] * share.flatten()[:, None]
    return torch.cat([S[..., : 1 + d, :], pairs], -2)


def taylor_map(x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows 1+d+d**2"]:
    """phi(x) of equation (1)."""
    d = x.shape[-1]
    pairs = (x[..., :, None] * x[..., None, :]).flatten(-2) / (2 * d) ** 0.5
    return torch.cat([torch.ones_like(x[..., :1]), x / d**0.25, pairs], -1)


@EXHIBIT.path
def sliding_window_attention(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch heads n dim"],
    v: Float[Tensor, "batch heads n dim"],
    *,
    left: int,
    rope: bool = False,
    rope_base: float = 10000.0,
    scale: float | None = None,
) -> dict[str, Tensor]:
    """See the reference. Tiles of queries meet only the keys that some query of theirs can see."""
    n, dim = q.shape[2:]
    if rope:
        cos, sin = tables(np.arange(n), dim, rope_base)
        q, k = rotate_halves(q, cos, sin), rotate_halves(k, cos, sin)
    left = min(left, n - 1)
    B = min(max(left, 64), n)  # a tile as long as the window sees at most twice what it needs
    q = pad(q, (0, 0, 0, -n % B)).unflatten(2, (-1, B))  # (batch, heads, tiles, B, dim)
    # (batch, heads, tiles, left + B, dim): tile c's keys start at position c*B - left
    k, v = (pad(t, (0, 0, left, -n % B)).unfold(2, left + B, B).mT for t in (k, v))
    i, j = torch.arange(B, device=q.device), torch.arange(left + B, device=q.device) - left
    back = i[:, None] - j
    first = torch.arange(0, q.shape[2], device=q.device)[:, None, None] * B
    seen = (back >= 0) & (back <= left) & (first + j >= 0)  # (tiles, B, left + B)
    o = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    return {"o": o.flatten(2, 3)[:, :, :n]}


@EXHIBIT.path
def base_conv(
    x: Float[Tensor, "batch n dim"],
    w_in: Float[Tensor, "2*inner dim"],
    b_in: Float[Tensor, "2*inner"],
    w_conv: Float[Tensor, "inner 1 kernel"],
    w_out: Float[Tensor, "dim inner"],
    b_out: Float[Tensor, "dim"],
) -> dict[str, Tensor]:
    """See the reference."""
    u1, u2 = linear(x, w_in, b_in).chunk(2, dim=-1)
    inner, _, K = w_conv.shape
    c = conv1d(pad(u1.mT, (K - 1, 0)), w_conv, groups=inner).mT
    return {"y": linear(silu(c) * u2, w_out, b_out)}


@EXHIBIT.path
def feature_map(x: Float[Tensor, "rows feature_dim"]) -> dict[str, Tensor]:
    """See the reference."""
    d = x.shape[1]
    i, j = torch.tril_indices(d, d, -1, device=x.device)
    parts = [torch.ones_like(x[:, :1]), x / d**0.5, x**2 / (2**0.5 * d), x[:, i] * x[:, j] / d]
    return {"phi": taylor_map(x), "phi_packed": torch.cat(parts, -1)}
