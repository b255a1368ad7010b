"""HyperAttention on CUDA: the unrolled recursion of the CPU path, with one launch for each level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from attnlab.kernels.cuda import device, sortlsh
from attnlab.kernels.cuda.flash import flash
from attnlab.kernels.cuda.reshape import copy_rows, cut_rows

from . import EXHIBIT
from .plan import Problem, draw_projection, draw_samples, few_buckets, problems, ranges, segments

COUNTABLE = 2**12  # buckets that are counted as they are


def to_device(array: np.ndarray) -> Any:
    from numba import cuda

    return cuda.to_device(array)


def triangles(q: Any, k: Any, v: Any, size: int, level: int, scale: float) -> Any:
    """Exact causal attention inside the segments of a level: out (many, n, dim), lse (many, n)."""
    many, n, dim = q.shape
    first, real = segments(n, level)
    if (real == size).all():  # nothing is padded: the segments are heads of their own
        shape = (1, many << level, size, dim)
        out, lse = flash(*(x.reshape(*shape) for x in (q, k, v)), scale=scale, causal=True)
        return out.reshape(many, n, dim), lse.reshape(many, n)
    out, lse = device.empty(q.shape, q.dtype), device.empty((many, n, 1), q.dtype)
    for a, rows in zip(map(int, first), map(int, real)):
        if rows:
            cut = (cut_rows(x, a, rows).reshape(1, many, rows, dim) for x in (q, k, v))
            part, part_lse = flash(*cut, scale=scale, causal=True)
            copy_rows(part.reshape(many, rows, dim), 0, out, a, rows)
            copy_rows(part_lse.reshape(many, rows, 1), 0, lse, a, rows)
    return out, lse.reshape(many, n)


def countable(q_hash: Any, k_hash: Any, r: int) -> tuple[Any, Any, int]:
    """Bucket numbers small enough to count, and how many: many bits go through the host once."""
    if r <= math.log2(COUNTABLE):
        return q_hash, k_hash, 1 << max(r, 0)
    small = few_buckets(q_hash.copy_to_host(), k_hash.copy_to_host(), COUNTABLE)
    return *map(to_device, small), int(max(s.max() for s in small)) + 1


@EXHIBIT.path
def attend(
    q: Any, k: Any, v: Any, sampled: list[Any] | None = None, proj_dir: Any = None, *,
    block_size: int = 256, sample_size: int = 256, min_seq_len: int = 4096, lsh_num_projs: int = 7,
    causal: bool = False, exclude_own_block: bool = True, scale: float | None = None,
    mask_padding: bool = False, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """See the reference."""
    batch, heads, n, dim = q.shape
    keys, many, shape = k.shape[2], batch * heads, q.shape
    scale = dim**-0.5 if scale is None else scale
    found = problems(
        n, keys, causal=causal, min_seq_len=min_seq_len,
        block_size=block_size, sample_size=sample_size,
    )  # fmt: skip
    if sampled is None:
        sampled = [to_device(a) for a in draw_samples(seed, batch, heads, found)]
    draws = iter(sampled)
    if proj_dir is None:
        proj_dir = to_device(draw_projection(seed, dim, lsh_num_projs).astype(q.dtype))
    q_hash, k_hash = (
        sortlsh.sign_buckets(x.reshape(many * x.shape[2], dim), proj_dir).reshape(many, x.shape[2])
        for x in (q, k)
    )
    made = {
        "q_hash": q_hash.reshape(batch, heads, n),
        "k_hash": k_hash.reshape(batch, heads, keys),
    }
    if not found:
        out, lse = flash(q, k, v, scale=scale, causal=causal)
        return {"out": out, "lse": lse.reshape(batch, heads, n, 1), **made}

    q, k, v = (x.reshape(many, x.shape[2], dim) for x in (q, k, v))
    if causal:
        out, lse = triangles(q, k, v, found[0].queries, found[0].level + 1, scale)
    else:
        out, lse = device.empty(q.shape, q.dtype), device.empty((many, n), q.dtype)
    q_small, k_small, count = countable(q_hash, k_hash, lsh_num_projs)
    for problem in found:  # deepest level first
        first_q, real_q, first_k, real_k = map(to_device, ranges(problem, n, keys, causal))
        order_q = sortlsh.sort_by_bucket(q_small, first_q, real_q, count, problem.queries)
        order_k = sortlsh.sort_by_bucket(k_small, first_k, real_k, count, problem.keys)
        samples, shift = drawn(problem, draws, many * first_q.shape[0])
        sortlsh.attend_blocks(
            q, k, v, order_q, order_k, first_q, real_q, first_k, samples, problem.block,
            problem.query_block, scale, shift, exclude_own_block, mask_padding, causal, out, lse,
        )  # fmt: skip
    return {"out": out.reshape(*shape), "lse": lse.reshape(batch, heads, n, 1), **made}


def drawn(problem: Problem, draws: Any, rows: int) -> tuple[Any, float]:
    """The problem's sampled places (rows, S) and log(keys/S); S = 0 where nothing is sampled."""
    if not problem.sampled:
        return device.empty((rows, 0), np.int64), 0.0
    samples = next(draws)
    return samples.reshape(rows, problem.samples), math.log(problem.keys / problem.samples)
