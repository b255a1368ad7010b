"""Retrieval heads in PyTorch: one argmax for the scores, the fused operator for the layer."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from attnlab.layers.heads import merge_heads, split_heads
from attnlab.layers.rotary import rotate_halves, tables

from . import EXHIBIT


@EXHIBIT.path
def score_heads(
    prompt_ids: Int[Tensor, "n"],
    needle_span: Int[Tensor, "2"],
    generated: Int[Tensor, "T"],
    attention: Float[Tensor, "T layers heads keys"],
    *,
    top_k: int = 1,
    want: frozenset[str] = frozenset(),
) -> dict[str, Tensor | None]:
    """See the reference. Only the columns behind the prompt need a mask: they are few."""
    (s, e), n = needle_span, len(prompt_ids)
    place = torch.arange(n, device=attention.device)
    inside = (s <= place) & (place < e)
    same = inside & (prompt_ids == generated[:, None])  # (T, n): where a copy of g_t would look
    given, later = attention[..., :n], attention[..., n:]
    step = torch.arange(later.shape[-1], device=attention.device)
    later = later.masked_fill(
        step >= torch.arange(len(generated), device=step.device)[:, None, None, None], -torch.inf
    )
    if top_k == 1:
        best = given.max(-1)  # the first among equals
        event = same.gather(1, best.indices.flatten(1)).view(best.indices.shape)
        if later.shape[-1]:
            event = event & (best.values >= later.amax(-1))
    else:
        best = given.masked_fill(~same[:, None, None], -torch.inf).max(-1)
        value, index = best.values[..., None], best.indices[..., None]
        before = (given > value) | ((given == value) & (place < index))
        rank = before.sum(-1) + (later > value).sum(-1)
        event = (rank < top_k) & same.any(1)[:, None, None]
    per_step = event.to(attention.dtype) / (e - s)
    made: dict[str, Tensor | None] = {"retrieval_score": per_step.sum(0), "per_step": per_step}
    if "set_score" in want:
        earlier = (generated[:, None] == generated).tril(-1)  # (T, T): the same token before
        repeated = torch.einsum("ts,slh->tlh", earlier.to(per_step), event.to(per_step)) > 0
        later_in_needle = (prompt_ids[:, None] == prompt_ids).tril(-1) & inside & inside[:, None]
        distinct = (inside & ~later_in_needle.any(1)).sum()
        made["set_score"] = (event & ~repeated).sum(0).to(per_step) / distinct
    return made


@EXHIBIT.path
def mask_heads(
    x: Float[Tensor, "batch n width"],
    block_heads: Int[Tensor, "m"],
    q_proj: Float[Tensor, "heads*dim width"],
    k_proj: Float[Tensor, "kv_heads*dim width"],
    v_proj: Float[Tensor, "kv_heads*dim width"],
    o_proj: Float[Tensor, "width heads*dim"],
    *,
    n_heads: int,
    n_kv_heads: int,
    rope_base: float = 10000.0,
    causal: bool = False,
    want: frozenset[str] = frozenset(),
) -> dict[str, Tensor | None]:
    """See the reference. A uniform head is a mean of the values: it needs no scores."""
    n, groups = x.shape[1], n_heads // n_kv_heads
    q = split_heads(linear(x, q_proj), n_heads)
    k, v = (split_heads(linear(x, W), n_kv_heads) for W in (k_proj, v_proj))
    cos, sin = (torch.as_tensor(t, device=x.device) for t in _tables(n, q.shape[-1], rope_base))
    q, k = rotate_halves(q, cos, sin), rotate_halves(k, cos, sin)
    k, v = (z.repeat_interleave(groups, dim=1) for z in (k, v))

    flat = torch.zeros(n_heads, dtype=torch.bool, device=x.device)
    flat[block_heads] = True
    flat = flat[:, None, None]  # (heads, 1, 1)
    count = torch.arange(1, n + 1, device=x.device, dtype=x.dtype)[:, None]
    even = v.cumsum(2) / count if causal else v.mean(2, keepdim=True).expand_as(v)

    A = A_masked = None
    if want & {"weights_plain", "weights_masked"}:
        seen = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        A = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf).softmax(-1)
        A_masked = torch.where(flat, seen / count if causal else torch.full_like(A[0, 0], 1 / n), A)
        O = A @ v
    else:
        O = scaled_dot_product_attention(q, k, v, is_causal=True)
    return {
        "out_plain": linear(merge_heads(O), o_proj),
        "out_masked": linear(merge_heads(torch.where(flat, even, O)), o_proj),
        "weights_plain": A,
        "weights_masked": A_masked,
    }


def _tables(n: int, dim: int, base: float) -> tuple[Tensor, Tensor]:
    cos, sin = tables(torch.arange(n).numpy(), dim, base)
    return torch.from_numpy(cos), torch.from_numpy(sin)
