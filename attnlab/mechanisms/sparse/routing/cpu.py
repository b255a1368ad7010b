"""Routing attention on the CPU: one product to route, a histogram to choose, dense tiles to attend."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.clusters import (
    ROWS,
    add_members,
    attend_clusters,
    choose_members,
    route,
    scatter_mean,
)
from attnlab.kernels.cpu.flash import tile_sizes
from attnlab.kernels.cpu.runtime import run_workers, single_threaded_blas

from . import EXHIBIT


def counter() -> np.ndarray:
    return np.zeros(1, np.int64)


def routed(
    x: Float[np.ndarray, "batch heads n dim"],
    means: Float[np.ndarray, "heads clusters dim"],
    normalised: bool = True,
    keep: bool = True,
) -> tuple[np.ndarray, Int[np.ndarray, "batch heads n"], float]:
    """Similarities (batch, heads, clusters, n) if kept, buckets, and the sum of squared distances."""
    batch, heads, n, _ = x.shape
    sim = scratch.empty((batch, heads, means.shape[1], n if keep else 0), x.dtype)
    bucket = scratch.empty((batch, heads, n), np.int64)
    distance = scratch.empty((batch, heads, -(-n // ROWS)), np.float64)
    run_workers(route, x, means, normalised, sim, bucket, distance, counter())
    return sim, bucket, float(distance.sum())


def members(sim: Float[np.ndarray, "batch heads clusters n"], w: int) -> Int[np.ndarray, "_"]:
    """(batch, heads, clusters, min(w, n)) the rows closest to each mean, ascending."""
    index = scratch.empty((*sim.shape[:3], min(w, sim.shape[3])), np.int64)
    run_workers(choose_members, sim, index, counter())
    return index


def moved(
    rows: list[tuple[np.ndarray, np.ndarray]],
    means: Float[np.ndarray, "heads clusters dim"],
    normalised: bool,
) -> Float[np.ndarray, "heads clusters dim"]:
    """One Lloyd step over pairs of rows and their buckets; an empty bucket keeps its mean."""
    total, hits = np.zeros_like(means), np.zeros(means.shape[:2], np.int64)
    for x, bucket in rows:
        run_workers(add_members, x, bucket, normalised, total, hits, counter())
    length = np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)
    return np.where(hits[..., None] > 0, total / length, means)


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
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. Memory is that of the similarities, n x clusters a head."""
    batch, heads, n, dim = q.shape
    keys, clusters = v.shape[2], means.shape[1]
    if context_window is None and keys == n and key_mask is None:
        key_mask = query_mask
    real_q = np.ones((batch, n), bool) if query_mask is None else query_mask
    real_k = np.ones((batch, keys), bool) if key_mask is None else key_mask
    flags = np.array([query_mask is not None or key_mask is not None, causal, shared_qk])
    none = np.zeros((heads, clusters, 0, dim), q.dtype)

    with single_threaded_blas():
        sim_q, bucket_q, squares = routed(q, means)
        q_index = members(sim_q, window)
        sims, rows, k_index = [sim_q], [(q, bucket_q)], q_index
        if k is not None:
            sim_k, bucket_k, more = routed(k, means)
            k_index = members(sim_k, context_window or window)
            squares += more
            sims, rows = [sim_q, sim_k], [(q, bucket_q), (k, bucket_k)]

        w, w_k = q_index.shape[3], k_index.shape[3]
        attended = scratch.empty((batch, heads, clusters, w, dim), q.dtype)
        run_workers(
            attend_clusters, q, q if k is None else k, v, q_index, k_index,
            none if mem_key is None else mem_key, none if mem_value is None else mem_value,
            real_q, real_k, flags, np.array([dim**-0.5, 0, 1, 1, np.finfo(q.dtype).min], q.dtype),
            *tile_sizes(w, w_k + (0 if mem_key is None else mem_key.shape[2]), dim), attended, counter(),
        )  # fmt: skip
        out = scratch.empty(q.shape, q.dtype)
        run_workers(scatter_mean, attended, q_index, out, counter())
        batch_means = moved(rows, means, True) if training else None

    count = sum(x.size for x, _ in rows)
    made: dict[str, np.ndarray | None] = {
        "out": out,
        "aux_loss": np.asarray(commitment * squares / count, q.dtype),
        "q_index": q_index,
        "k_index": None if k is None else k_index,
    }
    if "similarity" in want:
        made["similarity"] = np.ascontiguousarray(np.concatenate(sims, axis=3).swapaxes(2, 3))
    if batch_means is not None:
        after = ema_decay * means + (1 - ema_decay) * batch_means
        made |= {"batch_means": batch_means, "means_after": after.astype(q.dtype)}
    return made


@EXHIBIT.path
def kmeans(
    x: Float[np.ndarray, "batch heads n dim"],
    means0: Float[np.ndarray, "heads clusters dim"],
    *,
    iters: int = 10,
) -> dict[str, np.ndarray]:
    """See the reference. No similarity is kept: a tile's nearest means are found at once."""
    means = means0.copy()
    with single_threaded_blas():
        for _ in range(iters):
            _, bucket, _ = routed(x, means, normalised=False, keep=False)
            means = moved([(x, bucket)], means, False)
    return {"means": means}
