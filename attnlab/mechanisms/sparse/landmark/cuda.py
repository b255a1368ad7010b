"""Landmark attention on CUDA: two online softmaxes in one pass, and decoding from a block cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.kernels.cuda import block_cache, device, landmark
from attnlab.kernels.cuda.matmul import linear, matmul
from attnlab.kernels.cuda.reshape import copy_rows, cut_rows, swap
from attnlab.layers.rotary import tables

from . import EXHIBIT, number
from .cache import Layout

NEVER = 2**40


def to_device(array: np.ndarray) -> Any:
    from numba import cuda

    return cuda.to_device(array)


@EXHIBIT.path
def attend(
    q: Any, k: Any, v: Any, is_landmark: Any, *, scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:  # fmt: skip
    """See the reference. The n x n weights are stored only when asked for."""
    batch, heads, n, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    end = to_device(landmark.block_ends(is_landmark.copy_to_host(), NEVER))
    weights = None
    if "weights" in want:
        rows = matmul(*(x.reshape(batch * heads, n, dim) for x in (q, k)), transposed=True)
        landmark.weigh(rows, end, scale)
        weights = rows.reshape(batch, heads, n, n)
    return {"out": landmark.attend(q, k, v, end, scale), "weights": weights}


def attend_chunk(
    q: Any, local_k: Any, local_v: Any, is_landmark: np.ndarray, block_k: Any, block_v: Any,
    first: int, layout: Layout, selection: str, rotary: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """out (heads, T, dim) and weights (heads, T, row); the cache begins at block `first`."""
    T, dim = q.shape[1:]
    farthest = max(layout.start + T, (layout.topk + 1) * layout.block)
    angles = tables(np.arange(farthest), dim if rotary else 0)
    cos, sin = (to_device(np.ascontiguousarray(a, q.dtype)) for a in angles)
    chosen = block_cache.choose_blocks(
        q,
        block_k,
        first,
        layout.landmark_positions,
        layout.start,
        layout.chosen,
        selection,
        cos,
        sin,
    )
    recent = layout.blocks - layout.topk  # the first block with a slot of its own
    rows = block_cache.score_rows(
        q, local_k, block_k, first, chosen, recent, layout.start, layout.tail, cos, sin
    )
    end = landmark.block_ends(layout.flags(is_landmark)[None], NEVER)
    landmark.weigh(rows, to_device(end))
    return block_cache.average(rows, chosen, local_v, block_v, first), rows


@EXHIBIT.path
def cached_attend(
    x: list[Any], is_landmark: list[Any], w_qkv: Any, w_out: Any, *, n_head: int, block: int = 51,
    cache_topk: int, cache_blocks: int, selection: str = "per_token_and_head", rotary: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """See the reference. The cache is a range of blocks in one array of all keys."""
    width = w_out.shape[0]
    dim = width // n_head
    flags = [f.copy_to_host()[0] for f in is_landmark]
    n = sum(len(f) for f in flags)
    tokens, at = device.empty((1, n, width), x[0].dtype), 0
    for chunk in x:
        copy_rows(chunk, 0, tokens, at, chunk.shape[1])
        at += chunk.shape[1]
    heads = swap(linear(tokens, w_qkv).reshape(n, 3 * n_head, dim))  # (3*n_head, n, dim)
    full = n // block
    blocks = cut_rows(heads, 0, full * block)

    def part(which: int) -> slice:
        return slice(which * n_head, (which + 1) * n_head)

    if full:
        block_k, block_v = (blocks[part(i)].reshape(n_head, full, block, dim) for i in (1, 2))
    else:  # Numba's device arrays cannot be cut or reshaped when they are empty
        block_k = block_v = device.empty((n_head, 0, block, dim), x[0].dtype)
    y, weights, seen = [], [], 0
    for f in flags:
        layout = Layout(seen, block, cache_topk, cache_blocks)
        local = cut_rows(heads, seen - layout.tail, layout.tail + len(f))
        out, W = attend_chunk(
            cut_rows(heads, seen, len(f))[part(0)], local[part(1)], local[part(2)], f,
            block_k, block_v, layout.first, layout, selection, rotary,
        )  # fmt: skip
        y.append(linear(swap(out).reshape(1, len(f), width), w_out))
        weights.append(W.reshape(1, *W.shape))
        seen += len(f)
    return {"y": y, "weights": weights}


@EXHIBIT.path
def fill_cache(
    k: Any, v: Any, *, block: int = 51, cache_blocks: int | None = None
) -> dict[str, Any]:
    """See the reference."""
    heads, n, dim = k.shape
    layout = Layout(n, block, 1, cache_blocks)
    made: dict[str, Any] = {"seen": to_device(np.array(n))}
    for name, a in (("k", k), ("v", v)):
        shape = (heads, layout.blocks, block, dim)
        cached = cut_rows(a, layout.first * block, layout.blocks * block)
        made[f"block_{name}"] = (
            cached.reshape(shape) if cached.size else device.empty(shape, a.dtype)
        )
        tail = device.zeros((heads, block, dim), a.dtype)
        copy_rows(a, layout.full * block, tail, 0, layout.tail)
        made[f"tail_{name}"] = tail
    return made


@EXHIBIT.path
def step(
    q: Any, k: Any, v: Any, block_k: Any, block_v: Any, tail_k: Any, tail_v: Any, seen: Any, *,
    cache_topk: int, cache_blocks: int | None = None, selection: str = "per_token_and_head",
    rotary: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """See the reference. The tail is copied, the cache only read."""
    heads, dim = q.shape
    block, tokens = block_k.shape[2], number(seen)
    layout = Layout(tokens, block, cache_topk, cache_blocks)
    tails = []
    for tail, new in ((tail_k, k), (tail_v, v)):
        copied = cut_rows(tail, 0, block)
        copy_rows(new.reshape(heads, 1, dim), 0, copied, layout.tail, 1)
        tails.append(copied)
    closes = np.array([layout.tail == block - 1])  # the token is its block's landmark
    local_k, local_v = (cut_rows(tail, 0, layout.tail + 1) for tail in tails)
    out, W = attend_chunk(
        q.reshape(heads, 1, dim), local_k, local_v, closes, block_k, block_v, 0, layout, selection,
        rotary,
    )  # fmt: skip
    state = {"tail_k": tails[0], "tail_v": tails[1], "seen": to_device(np.array(tokens + 1))}
    return {"out": out.reshape(heads, dim), "weights": W.reshape(heads, W.shape[2]), **state}
