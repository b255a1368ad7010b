"""HyperAttention on the CPU: counting sort, and blocks with samples in one online softmax.

The causal recursion is unrolled. At its bottom stand exact triangles, solved as heads of one dense
attention; each level above adds the squares below its diagonal, all segments of it together.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.flash import flash_attention, tile_sizes
from attnlab.kernels.cpu.runtime import run_workers, single_threaded_blas
from attnlab.kernels.cpu.sortlsh import attend_blocks, sign_buckets, sort_by_bucket

from . import EXHIBIT
from .plan import Problem, draw_projection, draw_samples, few_buckets, problems, ranges, segments

COUNTABLE = 2**16  # buckets that are counted as they are


def buckets(
    x: Float[np.ndarray, "batch heads n dim"], P: Float[np.ndarray, "dim r"]
) -> Int[np.ndarray, "batch heads n"]:
    if P.shape[1] == 0:
        return np.zeros(x.shape[:3], np.int64)
    bucket = scratch.empty(x.shape[:3], np.int64)
    rows, flat = x.reshape(-1, x.shape[3]), bucket.reshape(-1)
    run_workers(sign_buckets, rows, np.ascontiguousarray(P), flat, np.zeros(1, np.int64))
    return bucket


def triangles(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, size: int, level: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Exact causal attention inside the segments of a level, as heads of `size` rows."""
    batch, heads, n, dim = q.shape
    first, real = segments(n, level)
    if (real == size).all():  # nothing is padded: the segments are a view
        shape = (batch, heads << level, size, dim)
        out, lse = flash_attention(*(x.reshape(shape) for x in (q, k, v)), scale=scale, causal=True)
        return out.reshape(q.shape), lse.reshape(batch, heads, n)
    out, lse = scratch.empty(q.shape, q.dtype), scratch.empty((batch, heads, n), q.dtype)
    for a, rows in zip(first, real):
        if rows:
            part = slice(a, a + rows)
            cut = (np.ascontiguousarray(x[:, :, part]) for x in (q, k, v))
            out[:, :, part], lse[:, :, part] = flash_attention(*cut, scale=scale, causal=True)
    return out, lse


def solve(
    problem: Problem,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    hashed: tuple[np.ndarray, np.ndarray],
    samples: Int[np.ndarray, "batch _ S"] | None,
    where: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    scale: float,
    flags: tuple[bool, bool, bool],
    out: np.ndarray,
    lse: np.ndarray,
) -> None:
    """All segments of one problem size into out and lse; where: first and real rows of q and k."""
    batch, heads, _, dim = q.shape
    first_q, real_q, first_k, real_k = where
    many = len(first_q)
    count = int(max(h.max() for h in hashed)) + 1
    order_q = scratch.empty((batch, heads, many, problem.queries), np.int64)
    order_k = scratch.empty((batch, heads, many, problem.keys), np.int64)
    for h, first, real, order in (
        (hashed[0], first_q, real_q, order_q),
        (hashed[1], first_k, real_k, order_k),
    ):
        run_workers(sort_by_bucket, h, first, real, count, order, np.zeros(1, np.int64))
    few = samples if samples is not None else np.zeros((batch, heads * many, 0), np.int64)
    shift = math.log(problem.keys / few.shape[2]) if few.shape[2] else 0.0
    tiles = tile_sizes(problem.query_block, problem.block + few.shape[2], dim)
    run_workers(
        attend_blocks, q, k, v, order_q, order_k, first_q, real_q, first_k, few,
        np.array([problem.block, problem.query_block, *tiles], np.int64),
        np.array([scale, 0, 1, 1, shift], q.dtype), *flags, out, lse, np.zeros(1, np.int64),
    )  # fmt: skip


@EXHIBIT.path
def attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads keys dim"],
    v: Float[np.ndarray, "batch heads keys dim"],
    sampled: list[Int[np.ndarray, "batch _ sample_size"]] | None = None,
    proj_dir: Float[np.ndarray, "dim lsh_num_projs"] | None = None,
    *,
    block_size: int = 256,
    sample_size: int = 256,
    min_seq_len: int = 4096,
    lsh_num_projs: int = 7,
    causal: bool = False,
    exclude_own_block: bool = True,
    scale: float | None = None,
    mask_padding: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """See the reference. Memory is linear in n."""
    batch, heads, n, dim = q.shape
    keys = k.shape[2]
    scale = dim**-0.5 if scale is None else scale
    found = problems(
        n, keys, causal=causal, min_seq_len=min_seq_len,
        block_size=block_size, sample_size=sample_size,
    )  # fmt: skip
    draws = iter(draw_samples(seed, batch, heads, found) if sampled is None else sampled)
    P = draw_projection(seed, dim, lsh_num_projs) if proj_dir is None else proj_dir
    flags = (exclude_own_block, mask_padding, causal)

    with single_threaded_blas():
        q_hash, k_hash = (buckets(x, P.astype(q.dtype, copy=False)) for x in (q, k))
        hashed = few_buckets(q_hash, k_hash, COUNTABLE)
        if not found:
            out, lse = flash_attention(q, k, v, scale=scale, causal=causal)
        elif causal:
            out, lse = triangles(q, k, v, found[0].queries, found[0].level + 1, scale)
        else:
            out, lse = scratch.empty(q.shape, q.dtype), scratch.empty((batch, heads, n), q.dtype)
        for problem in found:  # deepest level first
            samples = next(draws) if problem.sampled else None
            where = ranges(problem, n, keys, causal)
            solve(problem, q, k, v, hashed, samples, where, scale, flags, out, lse)
    return {"out": out, "lse": lse[..., None], "q_hash": q_hash, "k_hash": k_hash}
