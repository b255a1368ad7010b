"""Routing attention on CUDA: a block selects each cluster's members, tiles attend, a gather averages."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.kernels.cuda import clusters, device
from attnlab.kernels.cuda.matmul import matmul

from . import EXHIBIT


@EXHIBIT.path
def attend(
    q: Any, k: Any, v: Any, query_mask: Any, key_mask: Any, means: Any, mem_key: Any = None,
    mem_value: Any = None, *, window: int, context_window: int | None = None, causal: bool = False,
    shared_qk: bool = False, commitment: float = 1e-4, training: bool = False,
    ema_decay: float = 0.999, want: frozenset[str] = frozenset(),
) -> dict[str, Any]:  # fmt: skip
    """See the reference."""
    batch, heads, n, dim = q.shape
    keys, count, many = v.shape[2], means.shape[1], batch * heads
    if context_window is None and keys == n and key_mask is None:
        key_mask = query_mask
    masked = query_mask is not None or key_mask is not None
    real_q = all_true(batch, n * masked) if query_mask is None else query_mask
    real_k = all_true(batch, keys * masked) if key_mask is None else key_mask

    total = n if k is None else n + keys
    q, v = q.reshape(many, n, dim), v.reshape(many, keys, dim)
    unit = device.empty((many, total, dim), q.dtype)
    clusters.unit_rows(q, unit, 0)
    if k is not None:
        k = k.reshape(many, keys, dim)
        clusters.unit_rows(k, unit, n)
    sim = matmul(means, unit, transposed=True)
    bucket, square = clusters.nearest(unit, means, sim)
    aux_loss = clusters.scaled_sum(square, commitment / (many * total * dim))

    q_index, place = clusters.members(sim, 0, n, window)
    k_index = q_index
    if k is not None:
        k_index, _ = clusters.members(sim, n, keys, context_window or window)
    none = device.zeros((heads, count, 0, dim), q.dtype)
    attended = clusters.attend(
        q, unit if k is None else k, v, q_index, k_index,
        none if mem_key is None else mem_key, none if mem_value is None else mem_value,
        real_q, real_k, causal, shared_qk, dim**-0.5,
    )  # fmt: skip

    def lists(index: Any) -> Any:
        return index.reshape(batch, heads, count, index.shape[2])

    made: dict[str, Any] = {
        "out": clusters.scatter_mean(attended, place).reshape(batch, heads, n, dim),
        "aux_loss": aux_loss,
        "q_index": lists(q_index),
        "k_index": None if k is None else lists(k_index),
    }
    if "similarity" in want:
        rows = matmul(unit, means, transposed=True)  # (many, rows, clusters)
        made["similarity"] = rows.reshape(batch, heads, total, count)
    if training:
        new = clusters.moved(unit, bucket, means)
        made |= {"batch_means": new, "means_after": clusters.mix(means, new, ema_decay)}
    return made


def all_true(batch: int, rows: int) -> Any:
    from numba import cuda

    return cuda.to_device(np.ones((batch, rows), bool))


@EXHIBIT.path
def kmeans(x: Any, means0: Any, *, iters: int = 10) -> dict[str, Any]:
    """See the reference."""
    batch, heads, n, dim = x.shape
    rows = x.reshape(batch * heads, n, dim)
    means = clusters.mix(means0, means0, 1.0)  # a copy
    for _ in range(iters):
        bucket, _ = clusters.nearest(rows, means, matmul(means, rows, transposed=True))
        means = clusters.moved(rows, bucket, means)
    return {"means": means}
