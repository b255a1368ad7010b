"""Routing attention in NumPy (Roy et al. 2020; equation numbers of the card)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from attnlab.layers.rotary import rotate_pairs, tables

from . import EXHIBIT


def normalise(x: Float[np.ndarray, "*rows dim"]) -> Float[np.ndarray, "*rows dim"]:
    """Rows of unit length; a zero row stays zero. (1)"""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def closest(sim: Float[np.ndarray, "rows clusters"], w: int) -> np.ndarray:
    """(clusters, min(w, rows)) the rows most similar to each mean, ascending; ties: lower first. (3)"""
    return np.sort(np.argsort(-sim, axis=0, kind="stable")[:w].T, axis=-1)


def cluster_means(
    x: Float[np.ndarray, "batch heads rows dim"], means: Float[np.ndarray, "heads clusters dim"]
) -> Float[np.ndarray, "heads clusters dim"]:
    """One Lloyd step: the direction of every bucket's sum; an empty bucket keeps its mean. (8)"""
    bucket = np.einsum("bhnd,hcd->bhnc", x, means).argmax(axis=-1)
    new = means.copy()
    for h, c in np.ndindex(*means.shape[:2]):
        inside = bucket[:, h] == c  # (batch, rows)
        if inside.any():
            new[h, c] = normalise(x[:, h][inside].sum(axis=0))
    return new


@EXHIBIT.path
def attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads keys dim"] | None,
    v: Float[np.ndarray, "batch heads keys dim"],
    query_mask: Bool[np.ndarray, "batch n"] | None,
    key_mask: Bool[np.ndarray, "batch keys"] | None,
    means: Float[np.ndarray, "heads clusters dim"],
    mem_key: Float[np.ndarray, "heads clusters slots dim"] | None = None,
    mem_value: Float[np.ndarray, "heads clusters slots dim"] | None = None,
    *,
    window: int,
    context_window: int | None = None,
    causal: bool = False,
    shared_qk: bool = False,
    commitment: float = 1e-4,
    training: bool = False,
    ema_decay: float = 0.999,
) -> dict[str, np.ndarray | None]:
    """Attention of every cluster's w closest queries to its w closest keys.

    Parameters
    ----------
    q, k, v               (batch, heads, n or keys, dim); with shared_qk no k: keys are q/||q||
    query_mask, key_mask  True at real tokens; padding is hidden in the attention alone
    means                 unit centroids, not a gradient parameter
    mem_key, mem_value    slots that every member of a cluster sees, never masked
    window                w; clipped to the number of rows. context_window: w_k of cross-attention

    Returns
    -------
    out                   (batch, heads, n, dim); 0 for a query in no cluster
    aux_loss              commitment loss, a scalar
    similarity            (batch, heads, rows, clusters), rows of q, then of k
    q_index, k_index      members of every cluster, ascending
    batch_means, means_after   in training: the step's means, and the moving average
    """
    batch, heads, n, dim = q.shape
    keys = v.shape[2]
    hide = -np.finfo(q.dtype).max
    if context_window is None and keys == n and key_mask is None:
        key_mask = query_mask
    real_q = np.ones((batch, n), bool) if query_mask is None else query_mask
    real_k = np.ones((batch, keys), bool) if key_mask is None else key_mask

    rows = normalise(q if shared_qk else np.concatenate([q, k], axis=2))  # (1)
    similarity = np.einsum("bhnd,hcd->bhnc", rows, means)  # (2)
    bucket = similarity.argmax(axis=-1)
    own_mean = means[np.arange(heads)[:, None], bucket]  # (batch, heads, rows, dim)
    aux_loss = commitment * np.mean((rows - own_mean) ** 2)  # (7)
    if k is None:
        k = rows

    out = np.zeros_like(q)
    count = np.zeros((batch, heads, n, 1), q.dtype)
    q_index, k_index = [], []
    for b, h in np.ndindex(batch, heads):
        Q = closest(similarity[b, h, :n], window)
        K = Q if shared_qk else closest(similarity[b, h, n:], context_window or window)
        q_index.append(Q)
        k_index.append(K)
        for c, (i, j) in enumerate(zip(Q, K)):
            s = q[b, h, i] @ k[b, h, j].T / dim**0.5  # (4)
            s = np.where(real_q[b, i, None] & real_k[b, j], s, hide)
            if causal:  # original positions, not places in the cluster
                s = np.where(i[:, None] >= j, s, hide)
            if shared_qk:  # itself only as a last resort
                s = np.where(i[:, None] == j, -5e4, s)
            values = v[b, h, j]
            if mem_key is not None and mem_value is not None:
                s = np.concatenate([q[b, h, i] @ mem_key[h, c].T / dim**0.5, s], axis=1)
                values = np.concatenate([mem_value[h, c], values])
            p = np.exp(s - s.max(axis=1, keepdims=True))
            out[b, h, i] += p / p.sum(axis=1, keepdims=True) @ values  # (5)
            count[b, h, i] += 1

    lists = (batch, heads, means.shape[1], -1)
    made: dict[str, np.ndarray | None] = {
        "out": out / (count + 1e-5),  # (6)
        "aux_loss": np.asarray(aux_loss, q.dtype),
        "similarity": similarity,
        "q_index": np.reshape(q_index, lists),
        "k_index": None if shared_qk else np.reshape(k_index, lists),
    }
    if training:
        new = cluster_means(rows, means)
        made |= {"batch_means": new, "means_after": ema_decay * means + (1 - ema_decay) * new}
    return made


@EXHIBIT.path
def kmeans(
    x: Float[np.ndarray, "batch heads n dim"],
    means0: Float[np.ndarray, "heads clusters dim"],
    *,
    iters: int = 10,
) -> dict[str, np.ndarray]:
    """means (heads, clusters, dim) after `iters` Lloyd steps on the sphere, from raw rows x."""
    means = means0.copy()
    for _ in range(iters):
        means = cluster_means(x, means)
    return {"means": means}


@EXHIBIT.path
def rotary(x: Float[np.ndarray, "batch heads n dim"]) -> dict[str, np.ndarray]:
    """x with the pairs (2i, 2i+1) of row p turned by p * 10000^(-2i/dim). Width must be even."""
    return {"rotated": rotate_pairs(x, *tables(np.arange(x.shape[2]), x.shape[3]))}
