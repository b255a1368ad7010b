"""Lightning attention and its layers in PyTorch: all tiles in batched products, one short scan."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.layers.activations import sigmoid, silu
from attnlab.layers.glu import simple_glu
from attnlab.layers.heads import merge_heads, split_heads
from attnlab.layers.lrpe import lrpe
from attnlab.layers.norms import layer_norm, rms_norm

from . import EXHIBIT


@EXHIBIT.path
def attend(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch heads n dim"],
    v: Float[Tensor, "batch heads n value_dim"],
    slopes: Float[Tensor, "heads"] | None = None,
    *,
    block: int = 64,
) -> dict[str, Tensor]:
    """See the reference. Only the n/block states are computed one after the other."""
    n = q.shape[2]
    B = max(1, min(block, n))
    s = q.new_zeros(q.shape[1]) if slopes is None else slopes
    # zero rows in front fill the first tile and neither add to sums nor move distances
    q, k, v = (_tiles(x, B) for x in (q, k, v))  # (batch, heads, tiles, B, ·)
    i = torch.arange(B, device=q.device)

    D = powers(s, (i[:, None] - i).clamp(min=0)).tril()[:, None]  # (heads, 1, B, B)
    intra = (q @ k.mT * D) @ v
    added = (k * powers(s, B - 1 - i)[:, None, :, None]).mT @ v  # (batch, heads, tiles, dim, e)
    KV = added.new_zeros(*added.shape[:2], *added.shape[3:])
    fade, before = powers(s, torch.tensor(B, device=q.device))[:, None, None], []
    for tile in added.unbind(2):
        before.append(KV)
        KV = fade * KV + tile
    o = intra
    if before:
        o = intra + (q * powers(s, i + 1)[:, None, :, None]) @ torch.stack(before, 2)
    o = o.flatten(2, 3)
    return {"o": o[:, :, o.shape[2] - n :], "state": KV}


def powers(s: Float[Tensor, "heads"], exponent: Tensor) -> Tensor:
    """lambda^exponent (heads, …)."""
    return torch.exp(-s.view(-1, *(1,) * exponent.ndim) * exponent)


def _tiles(x: Tensor, B: int) -> Tensor:
    x = torch.nn.functional.pad(x, (0, 0, -x.shape[2] % B, 0))
    return x.unflatten(2, (x.shape[2] // B, B))


@EXHIBIT.path
def gla(
    x: Float[Tensor, "batch n dim"],
    w_qkvu: Float[Tensor, "4*dim dim"],
    w_out: Float[Tensor, "dim dim"],
    slopes: Float[Tensor, "num_heads"],
    theta: Float[Tensor, "num_heads head_dim"] | None = None,
    pad_mask: Bool[Tensor, "batch n"] | None = None,
    x_next: Float[Tensor, "batch 1 dim"] | None = None,
    *,
    num_heads: int,
    use_lrpe: bool = False,
    eps: float = 1e-6,
) -> dict[str, Tensor]:
    """See the reference."""
    q, k, v, u = project(x, w_qkvu, num_heads, theta)
    if pad_mask is not None:
        v = v * pad_mask[:, None, :, None]
    o, state = attend(q, k, v, slopes)
    out = {"y": gated(o, u, w_out, eps), "state": state}
    if x_next is not None:
        q, k, v, u = project(x_next, w_qkvu, num_heads, theta, offset=x.shape[1])
        state = torch.exp(-slopes)[:, None, None] * state + k.mT @ v
        out |= {"y_next": gated(q @ state, u, w_out, eps), "state_next": state}
    return out


def project(
    x: Tensor, w_qkvu: Tensor, num_heads: int, theta: Tensor | None, offset: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v (batch, heads, n, ·) and the gate u (batch, n, dim)."""
    q, k, v, u = (x @ w_qkvu.T).chunk(4, dim=-1)
    q, k, v = (split_heads(part, num_heads) for part in (silu(q), silu(k), v))
    if theta is not None:
        q, k = (lrpe(part, theta, offset) for part in (q, k))
    return q, k, v, u


def gated(o: Tensor, u: Tensor, w_out: Tensor, eps: float) -> Tensor:
    """(SRMS(o) * u) w_out^T; the norm runs over the merged heads."""
    return (rms_norm(merge_heads(o), eps) * u) @ w_out.T


@EXHIBIT.path
def decoder_layer(
    x: Float[Tensor, "batch n dim"],
    w_qkvu: Float[Tensor, "4*dim dim"],
    w_out: Float[Tensor, "dim dim"],
    slopes: Float[Tensor, "num_heads"],
    glu1: Float[Tensor, "inner dim"],
    glu2: Float[Tensor, "inner dim"],
    glu3: Float[Tensor, "dim inner"],
    theta: Float[Tensor, "num_heads head_dim"] | None = None,
    *,
    num_heads: int,
    use_lrpe: bool = False,
    eps: float = 1e-6,
) -> dict[str, Tensor]:
    """See the reference."""
    layer = {"num_heads": num_heads, "use_lrpe": use_lrpe, "eps": eps}
    h = x + gla(rms_norm(x, eps), w_qkvu, w_out, slopes, theta, **layer).y
    return {"h": h, "y": h + simple_glu(rms_norm(h, eps), glu1, glu2, glu3)}


@EXHIBIT.path
def tnl_attention(
    x: Float[Tensor, "batch n dim"],
    q_proj_weight: Float[Tensor, "dim dim"],
    k_proj_weight: Float[Tensor, "dim dim"],
    v_proj_weight: Float[Tensor, "dim dim"],
    o_proj_weight: Float[Tensor, "dim dim"],
    output_gate_0_weight: Float[Tensor, "dim//num_heads dim"],
    output_gate_1_weight: Float[Tensor, "dim dim//num_heads"],
    norm_weight: Float[Tensor, "dim"],
    norm_bias: Float[Tensor, "dim"],
    slopes: Float[Tensor, "num_heads"],
    *,
    num_heads: int,
    ln_eps: float = 1e-5,
) -> dict[str, Tensor]:
    """See the reference."""
    q, k, v = (
        split_heads(silu(x @ w.T), num_heads) for w in (q_proj_weight, k_proj_weight, v_proj_weight)
    )
    o, _ = attend(q, k, v, slopes)
    gate = sigmoid(x @ output_gate_0_weight.T @ output_gate_1_weight.T)
    y = layer_norm(merge_heads(o), norm_weight, norm_bias, ln_eps) * gate
    return {"y": y @ o_proj_weight.T}
