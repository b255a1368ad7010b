"""Landmark attention on the CPU: one pass over tiles of whole blocks; decoding from a block cache."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.block_cache import attend_retrieved, score_landmarks
from attnlab.kernels.cpu.flash import tile_sizes, transpose_tile
from attnlab.kernels.cpu.landmark import NEVER, weigh_blocks
from attnlab.kernels.cpu.runtime import fetch_add, run_workers, single_threaded_blas, worker
from attnlab.kernels.cpu.softmax import finish, start
from attnlab.layers.rotary import tables

from . import EXHIBIT
from .cache import Layout

# --- training form ---------------------------------------------------------------------------


def plan_tiles(
    is_landmark: Bool[np.ndarray, "batch n"], columns: int
) -> tuple[Int[np.ndarray, "batch blocks"], Int[np.ndarray, "batch tiles 2"]]:
    """Landmarks of each row (then NEVER), and key tiles: where each begins and its first block.

    A tile holds whole closed blocks, up to `columns` keys or one longer block; what follows the
    last landmark is cut anywhere. After the last tile comes one that begins at n.
    """
    n = is_landmark.shape[1]
    ends, tiles = [], []
    for flags in is_landmark:
        at = np.flatnonzero(flags)
        begin, rows = 0, []
        number = 0
        while number < len(at):
            rows.append((begin, number))
            fits = int(np.searchsorted(at, begin + columns, "left"))  # blocks that end in reach
            number = max(number + 1, fits)
            begin = int(at[number - 1]) + 1
        rows += [(j, number) for j in range(begin, n, columns)]
        ends.append([*at, NEVER])
        tiles.append([*rows, (n, number)])

    def even(lists: list, width: int) -> np.ndarray:
        return np.array([row + row[-1:] * (width - len(row)) for row in lists], np.int64)

    return even(ends, max(map(len, ends))), even(tiles, max(map(len, tiles)))


@worker
def transpose_tiles(k, tiles, kt, counter):
    """kt (batch, heads, n*dim) <- the keys of a tile transposed, one tile after another."""
    batch, heads, _, dim = k.shape
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads:
            break
        b, h = item // heads, item % heads
        for t in range(tiles.shape[1] - 1):
            j0, j1 = tiles[b, t, 0], tiles[b, t + 1, 0]
            transpose_tile(k[b, h, j0:j1], kt[b, h, j0 * dim : j1 * dim].reshape(dim, j1 - j0))


@worker
def attend_tiles(q, kt, v, ends, tiles, out, numbers, tile_q, widest, counter):
    """Tiles of queries against the tiles of keys that begin before their end. numbers: [scale, 0, 1, 1]."""
    batch, heads, n, dim = q.shape
    score, accumulate = numbers[:2], numbers[2:]
    s_tile = scratch.tile((tile_q, widest), q.dtype)
    running = scratch.tile((3, tile_q), q.dtype)
    tiles_q = (n + tile_q - 1) // tile_q
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * heads * tiles_q:
            break
        b, h = item // tiles_q // heads, item // tiles_q % heads
        i0 = (tiles_q - 1 - item % tiles_q) * tile_q  # the longest first
        i1 = min(i0 + tile_q, n)
        rows = i1 - i0
        acc, m, l = out[b, h, i0:i1], running[0, :rows], running[1, :rows]
        start(m, l, acc)
        t = 0
        while tiles[b, t, 0] < i1:
            j0, j1 = tiles[b, t, 0], tiles[b, t + 1, 0]
            keys = kt[b, h, j0 * dim : j1 * dim].reshape(dim, j1 - j0)
            stop = min(j1, i1)
            s = s_tile[:rows, : stop - j0]
            gemm_nn(score, q[b, h, i0:i1], keys[:, : stop - j0], s)
            weigh_blocks(s, i0, j0, ends[b], tiles[b, t, 1], m, l, acc)
            gemm_nn(accumulate, s, v[b, h, j0:stop], acc)
            t += 1
        finish(m, l, acc, running[2, :rows])


@worker
def weigh_rows(s, ends, counter):
    """s (batch, heads, n, n): scores of whole rows become weights."""
    heads, n = s.shape[1:3]
    running = scratch.tile((2, 1), s.dtype)
    nothing = scratch.tile((1, 0), s.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= s.shape[0] * heads * n:
            break
        b, h, i = item // n // heads, item // n % heads, item % n
        whole, m, l = s[b, h, i], running[0], running[1]
        m[0], l[0] = -np.inf, 0
        weigh_blocks(s[b, h, i : i + 1, : i + 1], i, 0, ends[b], 0, m, l, nothing)
        inverse = 1 / l[0] if l[0] > 0 else l[0]
        for j in range(n):
            whole[j] = whole[j] * inverse if j <= i else 0


@EXHIBIT.path
def attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n dim"],
    is_landmark: Bool[np.ndarray, "batch n"],
    *,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. No n x n matrix unless the weights are asked for."""
    batch, heads, n, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    tile_q, columns = tile_sizes(n, n, dim)
    ends, tiles = plan_tiles(is_landmark, columns)
    widest = int(np.diff(tiles[..., 0], axis=1).max())
    out = scratch.empty(q.shape, q.dtype)
    kt = scratch.empty((batch, heads, n * dim), q.dtype)
    work = (q, kt, v, ends, tiles, out, np.array([scale, 0, 1, 1], q.dtype), tile_q, widest)
    weights = None
    with single_threaded_blas():
        run_workers(transpose_tiles, k, tiles, kt, np.zeros(1, np.int64))
        run_workers(attend_tiles, *work, np.zeros(1, np.int64))
        if "weights" in want:
            weights = q @ k.swapaxes(2, 3) * q.dtype.type(scale)
            run_workers(weigh_rows, weights, ends, np.zeros(1, np.int64))
    return {"out": out, "weights": weights}


# --- inference form --------------------------------------------------------------------------


@lru_cache(maxsize=16)
def rotary_tables(positions: int, dim: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin for all positions up to a bound, kept from call to call."""
    cos, sin = tables(np.arange(positions), dim)
    return np.ascontiguousarray(cos, dtype), np.ascontiguousarray(sin, dtype)


def attend_chunk(
    q: Float[np.ndarray, "heads T dim"],
    local_k: Float[np.ndarray, "heads tail+T dim"],
    local_v: Float[np.ndarray, "heads tail+T dim"],
    is_landmark: Bool[np.ndarray, "T"],
    block_k: Float[np.ndarray, "heads all_blocks block dim"],
    block_v: Float[np.ndarray, "heads all_blocks block dim"],
    first: int,
    layout: Layout,
    selection: str,
    rotary: bool,
    weighed: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """out (heads, T, dim) and, if weighed, weights of a chunk; the cache begins at block `first`."""
    heads, T, dim = q.shape
    kind, b = q.dtype, layout.block
    at = np.array([first, layout.blocks, layout.topk, layout.start, layout.tail], np.int64)
    farthest = max(layout.start + T, (layout.topk + 1) * b)
    cos, sin = rotary_tables(-(-farthest // 512) * 512, dim if rotary else 0, kind.name)
    scale = np.array([dim**-0.5, 0], kind)
    turned_q = scratch.empty(q.shape, kind) if rotary else q
    turned_k = scratch.empty(local_k.shape, kind) if rotary else local_k
    p = scratch.empty((heads, T, layout.blocks), kind)
    workers = None if heads * T * (layout.blocks + layout.chosen * b + T) * dim > 2**20 else 1
    run_workers(
        score_landmarks, q, local_k, block_k, cos, sin, at, rotary, scale, turned_q, turned_k, p,
        np.zeros(1, np.int64), workers=workers,
    )  # fmt: skip
    if selection != "per_token_and_head":
        axis = 0 if selection == "max_over_heads" else 1
        p = np.array(np.broadcast_to(p.max(axis=axis, keepdims=True), p.shape))
    retrieved = layout.chosen * b
    before = np.arange(layout.chosen) * b + b - 1
    ends = np.concatenate([before, retrieved + layout.tail + np.flatnonzero(is_landmark), [NEVER]])
    out = scratch.empty(q.shape, kind)
    weights = scratch.empty((heads, T, (retrieved + local_k.shape[1]) * weighed), kind)
    run_workers(
        attend_retrieved, turned_q, turned_k, local_v, block_k, block_v, p, ends, cos, sin, at,
        rotary, scale, out, weights, np.zeros(1, np.int64), workers=workers,
    )  # fmt: skip
    return out, weights if weighed else None


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
    want: frozenset[str] = frozenset(),
) -> dict[str, list[np.ndarray] | None]:
    """See the reference. The cache is a range of blocks in one array of all keys."""
    width = w_out.shape[0]
    tokens = np.concatenate(x, axis=1)[0]
    heads = (tokens @ w_qkv.T).reshape(-1, 3, n_head, width // n_head).transpose(1, 2, 0, 3)
    q, k, v = np.ascontiguousarray(heads)
    full = len(tokens) // block * block
    block_k, block_v = (
        np.ascontiguousarray(a[:, :full]).reshape(n_head, full // block, block, a.shape[2])
        for a in (k, v)
    )
    y, weights, seen = [], [], 0
    with single_threaded_blas():
        for flags in is_landmark:
            now = slice(seen, seen + flags.shape[1])
            layout = Layout(seen, block, cache_topk, cache_blocks)
            local = slice(seen - layout.tail, now.stop)
            queries, keys, values = (
                np.ascontiguousarray(a) for a in (q[:, now], k[:, local], v[:, local])
            )
            out, W = attend_chunk(
                queries, keys, values, flags[0], block_k, block_v, layout.first, layout, selection,
                rotary, "weights" in want,
            )  # fmt: skip
            y.append(out.transpose(1, 0, 2).reshape(-1, width))
            weights.append(W)
            seen = now.stop
    made = np.split(np.concatenate(y) @ w_out.T, np.cumsum([len(a) for a in y])[:-1])
    return {
        "y": [a[None] for a in made],
        "weights": [W[None] for W in weights if W is not None] or None,
    }


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
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. Reads n/b landmarks, K blocks and the tail; copies the tail alone."""
    block = block_k.shape[2]
    layout = Layout(int(seen), block, cache_topk, cache_blocks)
    tail_k, tail_v = tail_k.copy(), tail_v.copy()
    tail_k[:, layout.tail], tail_v[:, layout.tail] = k, v
    closes = np.array([layout.tail == block - 1])  # the token is its block's landmark
    local_k, local_v = (np.ascontiguousarray(a[:, : layout.tail + 1]) for a in (tail_k, tail_v))
    with single_threaded_blas():
        out, W = attend_chunk(
            q[:, None], local_k, local_v, closes, block_k, block_v, 0, layout, selection, rotary,
            "weights" in want,
        )  # fmt: skip
    state = {"tail_k": tail_k, "tail_v": tail_v, "seen": np.array(int(seen) + 1)}
    return {"out": out[:, 0], "weights": None if W is None else W[:, 0], **state}
