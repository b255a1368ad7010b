"""Landmark attention in NumPy (Mohtashami and Jaggi 2023; equation numbers of the card)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.layers.rotary import rotate_pairs, tables

from . import EXHIBIT
from .cache import Layout


def softmax(S: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Softmax of the last axis over the elements where `over`; 0 elsewhere and where there is none."""
    S = np.where(over, S, -np.inf)
    top = S.max(axis=-1, keepdims=True, initial=-np.inf)
    E = np.exp(S - np.where(np.isfinite(top), top, 0))
    total = E.sum(axis=-1, keepdims=True)
    return E / np.where(total > 0, total, 1)


def landmark_weights(
    S: Float[np.ndarray, "heads rows keys"],
    allowed: Bool[np.ndarray, "rows keys"],
    is_landmark: Bool[np.ndarray, "keys"],
) -> Float[np.ndarray, "heads rows keys"]:
    """Weights of every key from scores S, equations (1) to (5)."""
    sec = np.where(allowed, np.cumsum(is_landmark) - is_landmark, 0)  # (1), exclusive sum
    L = sec.max(axis=-1, keepdims=True)
    own = allowed & ~is_landmark & (sec == L)  # (2)
    past = allowed & is_landmark & (sec < L)  # (3); the landmark of the own block is in neither

    p = softmax(S, own | past)  # (4) one joint softmax
    W = np.where(own, p, 0)
    start = 0
    for l in np.flatnonzero(is_landmark):  # (5) landmark l opens the tokens of its block
        G = slice(start, l)
        inside = past[:, [l]] & allowed[:, G]
        W[..., G] += p[..., [l]] * softmax(S[..., G], inside)
        start = int(l) + 1
    return W


@EXHIBIT.path
def attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n dim"],
    is_landmark: Bool[np.ndarray, "batch n"],
    *,
    scale: float | None = None,
) -> dict[str, np.ndarray]:
    """Causal attention in which the tokens of past blocks are reached through their landmarks.

    Parameters
    ----------
    q, k, v       (batch, heads, n, dim), landmarks already inserted into the sequence
    is_landmark   True at landmarks, anywhere; a landmark belongs to the block that it closes
    scale         None is 1/sqrt(dim)

    Returns
    -------
    out           (batch, heads, n, dim); 0 for a query without any key
    weights       (batch, heads, n, n); rows sum to 1 unless an empty block swallowed its share
    """
    n, dim = q.shape[2:]
    S = np.einsum("bhid,bhjd->bhij", q, k) * (dim**-0.5 if scale is None else scale)
    allowed = np.tri(n, dtype=bool)
    W = np.stack([landmark_weights(s, allowed, flags) for s, flags in zip(S, is_landmark)])
    return {"out": np.einsum("bhij,bhjd->bhid", W, v), "weights": W}  # (6)


def turn(x: np.ndarray, positions: np.ndarray, rotary: bool) -> np.ndarray:
    """Rotary positions of the rows of x (..., dim), or x as it is."""
    return rotate_pairs(x, *tables(positions, x.shape[-1])) if rotary else x


def choose(P: np.ndarray, K: int, selection: str) -> np.ndarray:
    """Numbers of the K best blocks, in time order, from probabilities P (heads, T, blocks)."""
    if selection == "max_over_heads":
        P = np.broadcast_to(P.max(axis=0, keepdims=True), P.shape)
    if selection == "max_over_tokens":
        P = np.broadcast_to(P.max(axis=1, keepdims=True), P.shape)
    return np.sort(np.argsort(-P, axis=-1, kind="stable")[..., :K], axis=-1)


def attend_chunk(
    q: Float[np.ndarray, "heads T dim"],
    local_k: Float[np.ndarray, "heads tail+T dim"],
    local_v: Float[np.ndarray, "heads tail+T dim"],
    is_landmark: Bool[np.ndarray, "T"],
    block_k: Float[np.ndarray, "heads blocks block dim"],
    block_v: Float[np.ndarray, "heads blocks block dim"],
    layout: Layout,
    selection: str,
    rotary: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """out (heads, T, dim) and weights (heads, T, retrieved + tail + T) of a chunk's queries."""
    heads, T, dim = q.shape
    now = layout.start + np.arange(T)
    q = turn(q, now, rotary)
    local_k = turn(local_k, np.concatenate([layout.local_positions, now]), rotary)

    doors = turn(block_k[:, :, -1], layout.landmark_positions, rotary)  # (heads, blocks, dim)
    score = np.einsum("htd,hrd->htr", q, doors) * dim**-0.5
    chosen = choose(softmax(score, np.ones_like(score, bool)), layout.chosen, selection)

    h = np.arange(heads)[:, None, None]
    K = turn(block_k[h, chosen], layout.retrieved_positions(chosen), rotary)
    K = K.reshape(heads, T, -1, dim)  # (heads, T, chosen*block, dim)
    V = block_v[h, chosen].reshape(heads, T, -1, dim)

    S = [np.einsum("htd,htjd->htj", q, K), np.einsum("htd,hjd->htj", q, local_k)]
    retrieved, row = K.shape[2], K.shape[2] + local_k.shape[1]
    allowed = np.tri(T, row, row - T, dtype=bool)  # what was before the chunk is seen by all
    W = landmark_weights(np.concatenate(S, -1) * dim**-0.5, allowed, layout.flags(is_landmark))
    out = np.einsum("htj,htjd->htd", W[..., :retrieved], V)
    return out + np.einsum("htj,hjd->htd", W[..., retrieved:], local_v), W


@EXHIBIT.path
def cached_attend(
    x: list[Float[np.ndarray, "1 T width"]],
    is_landmark: list[Bool[np.ndarray, "1 T"]],
    w_qkv: Float[np.ndarray, "3*width width"],
    w_out: Float[np.ndarray, "width width"],
    *,
    n_head: int,
    block: int = 51,
    cache_topk: int,
    cache_blocks: int,
    selection: str = "per_token_and_head",
    rotary: bool = True,
) -> dict[str, list[np.ndarray]]:
    """A sequence read in chunks: each query attends to K retrieved blocks, the tail and its chunk.

    Parameters
    ----------
    x, is_landmark   chunks of hidden states (1, T, width) and of flags, True at block ends only
    w_qkv, w_out     projections; heads are contiguous columns
    block            b, tokens in a block, landmark included
    cache_topk       K, blocks retrieved; cache_blocks: R, blocks kept
    selection        whose maximum decides: each query and head, or heads or queries together

    Returns
    -------
    y                (1, T, width) for each chunk
    weights          (1, n_head, T, retrieved + tail + T) for each chunk
    """
    width = w_out.shape[0]
    tokens = np.concatenate(x, axis=1)[0]
    # (3, heads, n, dim); keys are cached before rotary
    q, k, v = (tokens @ w_qkv.T).reshape(-1, 3, n_head, width // n_head).transpose(1, 2, 0, 3)
    full = len(tokens) // block * block
    block_k, block_v = (a[:, :full].reshape(n_head, -1, block, a.shape[-1]) for a in (k, v))

    y, weights, seen = [], [], 0
    for flags in is_landmark:
        now = slice(seen, seen + flags.shape[1])
        layout = Layout(seen, block, cache_topk, cache_blocks)
        cached, local = slice(layout.first, layout.full), slice(seen - layout.tail, now.stop)
        out, W = attend_chunk(
            q[:, now], k[:, local], v[:, local], flags[0],
            block_k[:, cached], block_v[:, cached], layout, selection, rotary,
        )  # fmt: skip
        y.append((out.transpose(1, 0, 2).reshape(-1, width) @ w_out.T)[None])
        weights.append(W[None])
        seen = now.stop
    return {"y": y, "weights": weights}


@EXHIBIT.path
def fill_cache(
    k: Float[np.ndarray, "heads n dim"],
    v: Float[np.ndarray, "heads n dim"],
    *,
    block: int = 51,
    cache_blocks: int | None = None,
) -> dict[str, np.ndarray]:
    """The block cache after n tokens: the newest full blocks, and the tail padded with zeros."""
    heads, n, dim = k.shape
    layout = Layout(n, block, 1, cache_blocks)
    made: dict[str, np.ndarray] = {"seen": np.array(n)}
    for name, a in (("k", k), ("v", v)):
        cached = a[:, layout.first * block : layout.full * block]
        tail = np.zeros((heads, block, dim), a.dtype)
        tail[:, : layout.tail] = a[:, layout.full * block :]
        made |= {
            f"block_{name}": cached.reshape(heads, -1, block, dim).copy(),
            f"tail_{name}": tail,
        }
    return made


@EXHIBIT.path
def step(
    q: Float[np.ndarray, "heads dim"],
    k: Float[np.ndarray, "heads dim"],
    v: Float[np.ndarray, "heads dim"],
    block_k: Float[np.ndarray, "heads blocks block dim"],
    block_v: Float[np.ndarray, "heads blocks block dim"],
    tail_k: Float[np.ndarray, "heads block dim"],
    tail_v: Float[np.ndarray, "heads block dim"],
    seen: Int[np.ndarray, ""],
    *,
    cache_topk: int,
    cache_blocks: int | None = None,
    selection: str = "per_token_and_head",
    rotary: bool = True,
) -> dict[str, np.ndarray]:
    """One token: out (heads, dim) and the tail with the token in it. The cache is only read.

    When `seen` reaches a multiple of the block length, the tail is a full block, which
    `append_block` moves into the cache before the next step.
    """
    block = block_k.shape[2]
    layout = Layout(int(seen), block, cache_topk, cache_blocks)
    tail_k, tail_v = tail_k.copy(), tail_v.copy()
    tail_k[:, layout.tail], tail_v[:, layout.tail] = k, v
    closes = np.array([layout.tail == block - 1])  # the token is its block's landmark
    local = slice(0, layout.tail + 1)
    out, W = attend_chunk(
        q[:, None], tail_k[:, local], tail_v[:, local], closes, block_k, block_v,
        layout, selection, rotary,
    )  # fmt: skip
    state = {"tail_k": tail_k, "tail_v": tail_v, "seen": np.array(int(seen) + 1)}
    return {"out": out[:, 0], "weights": W[:, 0], **state}


@EXHIBIT.path
def append_block(
    block_k: Float[np.ndarray, "heads blocks block dim"],
    block_v: Float[np.ndarray, "heads blocks block dim"],
    full_k: Float[np.ndarray, "heads block dim"],
    full_v: Float[np.ndarray, "heads block dim"],
    *,
    cache_blocks: int | None = None,
) -> dict[str, np.ndarray]:
    """The cache with one more block; the oldest leaves when more than cache_blocks are there."""
    keep = slice(None if cache_blocks is None else -cache_blocks, None)
    return {
        "block_k": np.concatenate([block_k, full_k[:, None]], axis=1)[:, keep],
        "block_v": np.concatenate([block_v, full_v[:, None]], axis=1)[:, keep],
    }
