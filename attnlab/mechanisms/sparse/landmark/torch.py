"""Landmark attention in PyTorch: grouped softmax by scatter, block retrieval by indexing."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnlab.layers.rotary import rotate_pairs, tables

from . import EXHIBIT
from .cache import Layout


def landmark_weights(
    S: Float[Tensor, "batch heads rows keys"],
    allowed: Bool[Tensor, "rows keys"],
    is_landmark: Bool[Tensor, "batch keys"],
) -> Float[Tensor, "batch heads rows keys"]:
    """Weights of every key, equations (1) to (5): every section is a group of columns."""
    flags = is_landmark[:, None, None, :]
    section = (is_landmark.cumsum(-1) - is_landmark.long())[:, None, None, :]  # (1)
    sec = section.where(allowed, torch.zeros_like(section))
    L = sec.amax(-1, keepdim=True)
    own = allowed & ~flags & (sec == L)  # (2)
    past = allowed & flags & (sec < L)  # (3)
    inside = allowed & ~flags & (sec < L)

    seen = own | past
    blind = ~seen.any(-1, keepdim=True)
    p = S.masked_fill(~seen, -torch.inf).masked_fill(blind, 0).softmax(-1).masked_fill(~seen, 0)

    groups = int(section.max()) + 1
    index = section.expand(S.shape)

    def per_group(values: Tensor) -> Tensor:
        return S.new_zeros(*S.shape[:-1], groups).scatter_add(-1, index, values)

    top = S.new_full((*S.shape[:-1], groups), -torch.inf)
    top = top.scatter_reduce(-1, index, S.detach().masked_fill(~inside, -torch.inf), "amax")
    E = (S - top.gather(-1, index)).masked_fill(~inside, -torch.inf).exp()
    total = per_group(E).gather(-1, index).masked_fill(~inside, 1)
    door = per_group(p.masked_fill(~past, 0)).gather(-1, index)  # the block's landmark's share
    return p.masked_fill(~own, 0) + E / total * door  # (5)


@EXHIBIT.path
def attend(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch heads n dim"],
    v: Float[Tensor, "batch heads n dim"],
    is_landmark: Bool[Tensor, "batch n"],
    *,
    scale: float | None = None,
) -> dict[str, Tensor]:
    """See the reference. The n x n weights are stored for the backward pass."""
    n, dim = q.shape[2:]
    S = q @ k.mT * (dim**-0.5 if scale is None else scale)
    allowed = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    W = landmark_weights(S, allowed, is_landmark)
    return {"out": W @ v, "weights": W}


def turn(x: Tensor, positions: np.ndarray, rotary: bool) -> Tensor:
    return rotate_pairs(x, *tables(positions, x.shape[-1])) if rotary else x


def choose(P: Tensor, K: int, selection: str) -> Int[Tensor, "heads T K"]:
    """Numbers of the K best blocks in time order; the older of equals."""
    if selection == "max_over_heads":
        P = P.amax(0, keepdim=True).expand_as(P)
    if selection == "max_over_tokens":
        P = P.amax(1, keepdim=True).expand_as(P)
    return P.sort(dim=-1, descending=True, stable=True).indices[..., :K].sort(-1).values


def turn_retrieved(
    x: Float[Tensor, "heads T K block dim"], chosen: Tensor, layout: Layout, rotary: bool
) -> Tensor:
    """Rotate retrieved keys to the positions of their rank: tables for all ranks, then a look-up."""
    if not rotary or chosen.numel() == 0:
        return x
    cos, sin = tables(np.arange((layout.chosen + 1) * layout.block), x.shape[-1])
    newer = torch.as_tensor(layout.slots > 0, device=x.device)[chosen]  # (heads, T, K)
    first = (newer.long() + torch.arange(layout.chosen, device=x.device)) * layout.block
    at = first[..., None] + torch.arange(layout.block, device=x.device)
    return rotate_pairs(
        x, *(torch.as_tensor(t, dtype=x.dtype, device=x.device)[at] for t in (cos, sin))
    )


def attend_chunk(
    q: Float[Tensor, "heads T dim"],
    local_k: Float[Tensor, "heads tail+T dim"],
    local_v: Float[Tensor, "heads tail+T dim"],
    is_landmark: Bool[Tensor, "T"],
    block_k: Float[Tensor, "heads blocks block dim"],
    block_v: Float[Tensor, "heads blocks block dim"],
    layout: Layout,
    selection: str,
    rotary: bool,
) -> tuple[Tensor, Tensor]:
    """out (heads, T, dim) and weights (heads, T, retrieved + tail + T) of a chunk's queries."""
    heads, T, dim = q.shape
    now = layout.start + np.arange(T)
    q = turn(q, now, rotary)
    local_k = turn(local_k, np.concatenate([layout.local_positions, now]), rotary)

    doors = turn(block_k[:, :, -1], layout.landmark_positions, rotary)
    score = (q @ doors.mT * dim**-0.5).detach()  # the choice of blocks has no gradient
    chosen = choose(score.softmax(-1), layout.chosen, selection)

    h = torch.arange(heads, device=q.device)[:, None, None]
    K = turn_retrieved(block_k[h, chosen], chosen, layout, rotary).reshape(heads, T, -1, dim)
    V = block_v[h, chosen].reshape(heads, T, -1, dim)

    S = torch.cat([(K @ q[..., None])[..., 0], q @ local_k.mT], -1) * dim**-0.5
    retrieved, row = K.shape[2], S.shape[-1]
    allowed = torch.ones(T, row, dtype=torch.bool, device=q.device).tril(row - T)
    before = torch.as_tensor(layout.flags(np.zeros(0, bool)), device=q.device)
    W = landmark_weights(S[None], allowed, torch.cat([before, is_landmark])[None])[0]
    out = (W[..., None, :retrieved] @ V)[..., 0, :]
    return out + W[..., retrieved:] @ local_v, W


@EXHIBIT.path
def cached_attend(
    x: list[Float[Tensor, "1 T width"]],
    is_landmark: list[Bool[Tensor, "1 T"]],
    w_qkv: Float[Tensor, "3*width width"],
    w_out: Float[Tensor, "width width"],
    *,
    n_head: int,
    block: int = 51,
    cache_topk: int,
    cache_blocks: int,
    selection: str = "per_token_and_head",
    rotary: bool = True,
) -> dict[str, list[Tensor]]:
    """See the reference."""
    width = w_out.shape[0]
    tokens = torch.cat(x, 1)[0]
    q, k, v = (tokens @ w_qkv.mT).reshape(-1, 3, n_head, width // n_head).permute(1, 2, 0, 3)
    full = len(tokens) // block
    block_k, block_v = (a[:, : full * block].unflatten(1, (full, block)) for a in (k, v))

    y, weights, seen = [], [], 0
    for flags in is_landmark:
        now = slice(seen, seen + flags.shape[1])
        layout = Layout(seen, block, cache_topk, cache_blocks)
        cached, local = slice(layout.first, layout.full), slice(seen - layout.tail, now.stop)
        out, W = attend_chunk(
            q[:, now], k[:, local], v[:, local], flags[0],
            block_k[:, cached], block_v[:, cached], layout, selection, rotary,
        )  # fmt: skip
        y.append((out.transpose(0, 1).reshape(-1, width) @ w_out.mT)[None])
        weights.append(W[None])
        seen = now.stop
    return {"y": y, "weights": weights}


@EXHIBIT.path
def fill_cache(
    k: Float[Tensor, "heads n dim"],
    v: Float[Tensor, "heads n dim"],
    *,
    block: int = 51,
    cache_blocks: int | None = None,
) -> dict[str, Tensor]:
    """See the reference."""
    n = k.shape[1]
    layout = Layout(n, block, 1, cache_blocks)
    made = {"seen": torch.tensor(n, device=k.device)}
    for name, a in (("k", k), ("v", v)):
        cached = a[:, layout.first * block : layout.full * block]
        made[f"block_{name}"] = cached.unflatten(1, (layout.blocks, block)).clone()
        made[f"tail_{name}"] = torch.nn.functional.pad(
            a[:, layout.full * block :], (0, 0, 0, block - layout.tail)
        )
    return made


@EXHIBIT.path
def step(
    q: Float[Tensor, "heads dim"],
    k: Float[Tensor, "heads dim"],
    v: Float[Tensor, "heads dim"],
    block_k: Float[Tensor, "heads blocks block dim"],
    block_v: Float[Tensor, "heads blocks block dim"],
    tail_k: Float[Tensor, "heads block dim"],
    tail_v: Float[Tensor, "heads block dim"],
    seen: Int[Tensor, ""],
    *,
    cache_topk: int,
    cache_blocks: int | None = None,
    selection: str = "per_token_and_head",
    rotary: bool = True,
) -> dict[str, Tensor]:
    """See the reference."""
    block = block_k.shape[2]
    layout = Layout(int(seen), block, cache_topk, cache_blocks)
    at = torch.tensor([layout.tail], device=q.device)
    tail_k, tail_v = (a.index_copy(1, at, new[:, None]) for a, new in ((tail_k, k), (tail_v, v)))
    closes = torch.tensor([layout.tail == block - 1], device=q.device)
    local = slice(0, layout.tail + 1)
    out, W = attend_chunk(
        q[:, None], tail_k[:, local], tail_v[:, local], closes, block_k, block_v,
        layout, selection, rotary,
    )  # fmt: skip
    state = {"tail_k": tail_k, "tail_v": tail_v, "seen": seen + 1}
    return {"out": out[:, 0], "weights": W[:, 0], **state}


@EXHIBIT.path
def append_block(
    block_k: Float[Tensor, "heads blocks block dim"],
    block_v: Float[Tensor, "heads blocks block dim"],
    full_k: Float[Tensor, "heads block dim"],
    full_v: Float[Tensor, "heads block dim"],
    *,
    cache_blocks: int | None = None,
) -> dict[str, Tensor]:
    """See the reference."""
    keep = slice(None if cache_blocks is None else -cache_blocks, None)
    return {
        "block_k": torch.cat([block_k, full_k[:, None]], 1)[:, keep],
        "block_v": torch.cat([block_v, full_v[:, None]], 1)[:, keep],
    }
