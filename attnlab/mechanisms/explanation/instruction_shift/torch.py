"""Instruction shift in PyTorch: the T backward passes in closed form, as products of matrices."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import EXHIBIT

FIRST_WORDS = 3000


@EXHIBIT.path
def attribute(
    input_ids: Int[Tensor, "n"],
    output_ids: Int[Tensor, "T"],
    instruction_mask: Bool[Tensor, "n"],
    emb: Float[Tensor, "V d"],
    u: Float[Tensor, "V d"],
    wq: Float[Tensor, "d d"],
    wk: Float[Tensor, "d d"],
    wv: Float[Tensor, "d d"],
    wo: Float[Tensor, "d d"],
    *,
    L: int = 10,
    b: int = 7,
    p: float = 4.0,
    bos_id: int = 1,
    eps: float = 1e-7,
    eps_analysis: float = 1e-9,
) -> dict[str, Tensor]:
    """See the reference; importance and confidence can be differentiated again.

    With c_rs = (d p / d h_r) . v_s and S the scores, e_i . d p / d e_i is A_ri c_ri as value and
    A_ri (c_ri - sum_s A_rs c_rs) S_ri as key: e_i times a key's weights is the key itself.
    """
    n, T, d = len(input_ids), len(output_ids), emb.shape[1]
    ids = torch.cat([input_ids.new_tensor([bos_id]), input_ids, output_ids[:-1]])
    x = emb[ids]  # (n + T, d): the last response token predicts nothing that is asked
    q, k, v = x[n:] @ wq.T, x @ wk.T, x @ wv.T @ wo.T
    future = torch.ones(T, n + T, dtype=torch.bool, device=x.device).triu(n + 1)
    S = (q @ k.T / d**0.5).masked_fill(future, -torch.inf)  # (T, n + T)
    A = S.softmax(-1)
    prob = ((x[n:] + A @ v) @ u.T).softmax(-1)  # (T, V)
    confidence = prob.gather(1, output_ids[:, None])  # (T, 1)
    d_h = confidence * (u[output_ids] - prob @ u)  # (T, d)
    c = d_h @ v.T  # (T, n + T)
    d_S = A * (c - (A * c).sum(1, keepdim=True))
    through = A * c + d_S * S.masked_fill(future, 0)  # as value, as key
    own = x[n] @ d_h[0] + (d_S[0] * S[0].masked_fill(future[0], 0)).sum()  # residual, query
    last = torch.zeros(n, T, dtype=torch.bool, device=x.device)
    last[n - 1, 0] = True  # the last prompt token, which predicts y_1
    importance = through[:, 1 : n + 1].T + torch.where(last, own, 0)  # (1)

    a = densities(quantise(importance, L, eps_analysis), b, p, eps_analysis)
    a = a / (a.max() + 1e-9)  # (4)
    levels = quantise(importance, L, eps)
    tokens = instruction_mask.sum().to(a.dtype)
    return {
        "importance": importance,
        "confidence": confidence[:, 0],
        "levels_0_10": levels,
        "density_raw": densities(levels, b, p, eps),
        "density_normalised": a,
        "instruction_score": (a * instruction_mask).sum() / (2 + tokens).log2(),  # (5)
    }


@EXHIBIT.path
def density(
    importance: Float[Tensor, "n T"],
    levels: Float[Tensor, "n T"] | None = None,
    *,
    L: int = 10,
    p: float = 4.0,
    thresholds: list[int] = [7],  # noqa: B006 -- never changed
    prequantised_b: int = 7,
    eps: float = 1e-9,
    detect_levels: bool = True,
) -> dict[str, Any]:
    """See the reference."""
    own = quantise(importance, L, eps)
    if detect_levels:
        own = torch.where((importance.max() == L) & (importance.min() == 0), importance, own)

    def normalised(levels: Tensor, b: int) -> Tensor:
        a = densities(levels, b, p, eps)
        return a / (a.max() + 1e-9)

    made: dict[str, Any] = {"density_b": {b: normalised(own, b) for b in thresholds}}
    if levels is not None:
        made["density_prequantised_b"] = {prequantised_b: normalised(levels, prequantised_b)}
    return made


@EXHIBIT.path
def word_patterns(
    word_embed_in: Float[Tensor, "V d"],
    word_embed_out: Float[Tensor, "V d"],
    static_embed: Float[Tensor, "V g"],
    q_proj: Float[Tensor, "H*h d"],
    k_proj: Float[Tensor, "H_kv*h d"],
    input_norm: Float[Tensor, "d"],
    down_proj: Float[Tensor, "d m"],
    *,
    n_q_heads: int,
    n_kv_heads: int,
    top_k: int = 100,
    ffn_top_k: int = 50,
    ffn_rank: int = 300,
) -> dict[str, Any]:
    """See the reference; activation and ffn_variance_share are differentiable."""
    V, h = len(word_embed_in), len(q_proj) // n_q_heads
    E = (word_embed_in * input_norm).T
    Hq = (q_proj @ E).unflatten(0, (n_q_heads, h))  # (H, h, V)
    Hk = (k_proj @ E).unflatten(0, (n_kv_heads, h))
    Hk = Hk.repeat_interleave(n_q_heads // n_kv_heads, dim=0)
    N = Hq.square().sum(-1) + Hk.square().sum(-1)  # (6) (H, h)
    activation, order = N.sort(dim=1, descending=True, stable=True)

    g = unit_rows(static_embed)
    theta = thresholds_of(g)
    K = min(top_k, V)
    heads = []
    for i in range(n_q_heads):
        hq, hk = (H[i].detach()[order[i]] for H in (Hq, Hk))  # (h, V)
        keys, queries = (top_words(H.abs(), K).sort(dim=1).values for H in (hk, hq))
        a, c = g[keys], g[queries]  # (h, K, g)
        cosines = torch.einsum("rkd,rqd->rkq", a, c)
        kept = (cosines > theta[keys][:, :, None]) & (cosines > theta[queries][:, None])
        kept &= hk.gather(1, keys)[:, :, None] * hq.gather(1, queries)[:, None] > 0
        kept &= (cosines > 0) & (keys[:, :, None] != queries[:, None])
        heads.append(
            {
                "dim_order": order[i],
                "activation": activation[i],
                "pairs_k_q": listed(kept, keys, queries, g),
            }
        )

    W = down_proj.T - down_proj.T.mean(0)  # (c) (m, d)
    _, S, V_t = torch.linalg.svd(W, full_matrices=False)
    match = (V_t[:ffn_rank].detach() @ unit_rows(word_embed_out.detach()).T).abs()
    share = S.square() / S.square().sum()
    return {
        "head": heads,
        "ffn_top_words": top_words(match, min(ffn_top_k, V)),
        "ffn_variance_share": share[:ffn_rank],
    }


def quantise(importance: Float[Tensor, "n T"], L: int, eps: float) -> Float[Tensor, "n T"]:
    """(2) before the cut."""
    positive = importance.relu()
    return (L * positive / (positive.amax(0) + eps)).ceil().clamp(max=L)


def densities(levels: Float[Tensor, "n T"], b: int, p: float, eps: float) -> Float[Tensor, "n"]:
    """The cut at b, and (3); levels are constants, so nothing is differentiated."""
    l = levels.detach()
    l = torch.where(l <= b, 0, l)
    return l.sum(1) / (l.pow(p).sum(1) ** (1 / p) + eps)


def top_words(values: Float[Tensor, "rows V"], k: int) -> Int[Tensor, "rows k"]:
    """The k largest of each row, the lower index first among equals."""
    return values.sort(dim=1, descending=True, stable=True).indices[:, :k]


def unit_rows(x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length.where(length > 0, 1.0)


def thresholds_of(g: Float[Tensor, "V g"]) -> Float[Tensor, "V"]:
    """theta of (7): the variance of g_w . g_v over v is g_w^T Cov(g_v) g_w."""
    first = g[:FIRST_WORDS].double()
    mean = first.mean(0)
    root = (first - mean) / len(first) ** 0.5
    w = g.double()
    variance = ((w @ (root.T @ root)) * w).sum(1)
    return (w @ mean + 1.96 * variance.clamp(min=0).sqrt()).to(g.dtype)


def listed(
    kept: Bool[Tensor, "h K K"], keys: Int[Tensor, "h K"], queries: Int[Tensor, "h K"], g: Tensor
) -> Int[Tensor, "h P 2"]:
    """The kept pairs of each dimension by falling cosine, then key word, then query word."""
    r, at_k, at_q = kept.nonzero(as_tuple=True)  # by key word, then query word
    pairs = torch.stack([keys[r, at_k], queries[r, at_q]], dim=1)  # (pairs, 2)
    # Row by row, so that (a, b) and (b, a) have the same bits and tie.
    cosine = (g[pairs.amin(1)] * g[pairs.amax(1)]).sum(1)
    order = cosine.sort(descending=True, stable=True).indices
    order = order[r[order].sort(stable=True).indices]
    r, pairs = r[order], pairs[order]
    counts = r.bincount(minlength=len(kept))
    place = torch.arange(len(r), device=r.device) - (counts.cumsum(0) - counts)[r]
    out = pairs.new_full((len(kept), int(counts.max()), 2), -1)
    out[r, place] = pairs
    return out
