"""Routing attention in PyTorch: gather the clusters, one batched attention, scatter the mean."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, one_hot, scaled_dot_product_attention

from attnlab.layers.rotary import rotate_pairs, tables

from . import EXHIBIT


def closest(
    sim: Float[Tensor, "batch heads rows clusters"], w: int
) -> Int[Tensor, "batch heads clusters w"]:
    """The w rows most similar to each mean, ascending; ties: lower row first. (3)"""
    w = min(w, sim.shape[2])
    column = sim.mT.contiguous()
    least = column.topk(w, -1, sorted=False).values.amin(-1, keepdim=True)
    above, equal = column > least, column == least
    room = w - above.sum(-1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(-1) <= room))
    return chosen.nonzero()[:, -1].view(*column.shape[:-1], w)


def cluster_means(
    x: Float[Tensor, "batch heads rows dim"],
    means: Float[Tensor, "heads clusters dim"],
    similarity: Float[Tensor, "batch heads rows clusters"],
) -> Float[Tensor, "heads clusters dim"]:
    """One Lloyd step; an empty bucket keeps its mean. (8)"""
    member = one_hot(similarity.argmax(-1), means.shape[1]).to(x.dtype)
    total = torch.einsum("bhnc,bhnd->hcd", member, x)
    empty = member.sum((0, 2)) == 0
    return means.where(empty[..., None], normalize(total, dim=-1))


@EXHIBIT.path
def attend(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch heads keys dim"] | None,
    v: Float[Tensor, "batch heads keys dim"],
    query_mask: Bool[Tensor, "batch n"] | None,
    key_mask: Bool[Tensor, "batch keys"] | None,
    means: Float[Tensor, "heads clusters dim"],
    mem_key: Float[Tensor, "heads clusters slots dim"] | None = None,
    mem_value: Float[Tensor, "heads clusters slots dim"] | None = None,
    *,
    window: int,
    context_window: int | None = None,
    causal: bool = False,
    shared_qk: bool = False,
    commitment: float = 1e-4,
    training: bool = False,
    ema_decay: float = 0.999,
) -> dict[str, Tensor | None]:
    """See the reference. The means are constants to the gradient, and so are the clusters."""
    batch, heads, n, dim = q.shape
    keys = v.shape[2]
    means = means.detach()
    if context_window is None and keys == n and key_mask is None:
        key_mask = query_mask

    q_rows = normalize(q, dim=-1, eps=1e-12)  # (1)
    k_rows = q_rows if k is None else normalize(k, dim=-1, eps=1e-12)
    rows = q_rows if k is None else torch.cat([q_rows, k_rows], 2)
    similarity = torch.einsum("bhnd,hcd->bhnc", rows, means).detach()  # (2)
    head = torch.arange(heads, device=q.device)[:, None]
    own_mean = means[head, similarity.argmax(-1)]
    aux_loss = commitment * (rows - own_mean).square().mean()  # (7)

    i = closest(similarity[:, :, :n], window)
    j = i if k is None else closest(similarity[:, :, n:], context_window or window)
    b = torch.arange(batch, device=q.device)[:, None, None, None]
    h = head[..., None]
    Q, V = q[b, h, i], v[b, h, j]  # (batch, heads, clusters, w, dim)
    K = (k_rows if k is None else k)[b, h, j]

    seen = None
    if query_mask is not None or key_mask is not None:
        ones = q.new_ones(batch, max(n, keys), dtype=torch.bool)
        real_q = ones[:, :n] if query_mask is None else query_mask
        real_k = ones[:, :keys] if key_mask is None else key_mask
        seen = real_q[b, i][..., :, None] & real_k[b, j][..., None, :]
    if causal:  # original positions, not places in the cluster
        past = i[..., :, None] >= j[..., None, :]
        seen = past if seen is None else seen & past
    itself = i[..., :, None] == j[..., None, :] if shared_qk else None
    attended = attend_clusters(Q, K, V, seen, itself, mem_key, mem_value)

    place = i.flatten(2)  # (batch, heads, clusters*w)
    out = torch.zeros_like(q).scatter_add(
        2, place[..., None].expand(-1, -1, -1, dim), attended.flatten(2, 3)
    )
    count = q.new_zeros(batch, heads, n).scatter_add(
        2, place, torch.ones_like(place, dtype=q.dtype)
    )
    made: dict[str, Tensor | None] = {
        "out": out / (count[..., None] + 1e-5),  # (6)
        "aux_loss": aux_loss,
        "similarity": similarity,
        "q_index": i,
        "k_index": None if k is None else j,
    }
    if training:
        new = cluster_means(rows.detach(), means, similarity)
        made |= {"batch_means": new, "means_after": ema_decay * means + (1 - ema_decay) * new}
    return made


def attend_clusters(
    Q: Float[Tensor, "batch heads clusters w dim"],
    K: Float[Tensor, "batch heads clusters w_k dim"],
    V: Float[Tensor, "batch heads clusters w_k dim"],
    seen: Bool[Tensor, "batch heads clusters w w_k"] | None,
    itself: Bool[Tensor, "batch heads clusters w w_k"] | None,
    mem_key: Float[Tensor, "heads clusters slots dim"] | None,
    mem_value: Float[Tensor, "heads clusters slots dim"] | None,
) -> Float[Tensor, "batch heads clusters w dim"]:
    """(4) and (5). Masks replace scores: a row that sees nothing averages all its keys."""
    if seen is None and itself is None and mem_key is None:
        flat = (x.flatten(1, 2) for x in (Q, K, V))
        return scaled_dot_product_attention(*flat).view_as(Q)
    scale = Q.shape[-1] ** -0.5
    s = Q @ K.mT * scale
    if seen is not None:
        s = s.masked_fill(~seen, -torch.finfo(s.dtype).max)
    if itself is not None:  # itself only as a last resort
        s = s.masked_fill(itself, -5e4)
    if mem_key is None or mem_value is None:
        return s.softmax(-1) @ V
    p = torch.cat([Q @ mem_key.mT * scale, s], -1).softmax(-1)
    slots = mem_key.shape[-2]
    return p[..., :slots] @ mem_value + p[..., slots:] @ V


@EXHIBIT.path
def kmeans(
    x: Float[Tensor, "batch heads n dim"],
    means0: Float[Tensor, "heads clusters dim"],
    *,
    iters: int = 10,
) -> dict[str, Tensor]:
    """See the reference."""
    means = means0.clone()
    for _ in range(iters):
        means = cluster_means(x, means, torch.einsum("bhnd,hcd->bhnc", x, means))
    return {"means": means}


@EXHIBIT.path
def rotary(x: Float[Tensor, "batch heads n dim"]) -> dict[str, Tensor]:
    """See the reference."""
    return {"rotated": rotate_pairs(x, *tables(np.arange(x.shape[2]), x.shape[3]))}
