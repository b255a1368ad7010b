"""Dense attention tile by tile, in memory linear in n (Dao et al. 2022, on a CPU).

A worker takes one tile of queries after another and walks over the tiles of keys that it may see,
with the online softmax of `softmax`. Two things make it fast. The tiles are small enough for the
BLAS's unpacked small-matrix routine (rows x columns x depth <= 10^6 in OpenBLAS), which for A B runs
a third faster than its general one; A B^T has no such routine, so the keys are transposed once, tile
by tile. And tiles outside the band, or wholly masked, are skipped before any product.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt
from attnlab.kernels.cpu.runtime import (
    block,
    contiguous,
    fetch_add,
    run_workers,
    single_threaded_blas,
    worker,
)
from attnlab.kernels.cpu.scratch import packed
from attnlab.kernels.cpu.softmax import finish, start, update

SMALL_PRODUCT = 1_000_000
UNBOUNDED = 2**40
# With fewer query rows a key head, transposing the keys costs more than it saves.
TRANSPOSE_FROM = 16


class Attended(NamedTuple):
    out: Float[np.ndarray, "batch heads n_q dim_v"]
    lse: Float[np.ndarray, "batch heads n_q"]


def tile_sizes(n_q: int, n_k: int, depth: int) -> tuple[int, int]:
    """(queries, keys) of a tile: a small product, and no ragged last tile of a few rows."""
    columns = _even(n_k, 256 if depth <= 128 else 128, 16)
    rows = max(8, min(64, SMALL_PRODUCT // (columns * max(depth, 1)) // 4 * 4))
    return _even(n_q, rows, 4), columns


def _even(n: int, largest: int, multiple: int) -> int:
    """The tile size, at most `largest`, that cuts n into equal parts up to rounding."""
    part = -(-n // max(1, -(-n // largest)))
    return max(multiple, -(-part // multiple) * multiple)


@block
def transpose_tile(k, kt):
    """kt (dim, columns) <- k^T, k (rows, dim), rows <= columns; the rest of kt is not written."""
    rows, dim = k.shape
    for j0 in range(0, rows, 16):  # 16 x 16: a cache line each way
        for d0 in range(0, dim, 16):
            for d in range(d0, min(d0 + 16, dim)):
                for j in range(j0, min(j0 + 16, rows)):
                    kt[d, j] = k[j, d]


@block
def hide_outside_band(s, first, left, right):
    """s <- -inf where column j of row i is outside [first + i - left, first + i + right]."""
    columns = s.shape[1]
    for i in range(s.shape[0]):
        row = packed(s[i])
        for j in range(min(columns, max(0, first + i - left))):
            row[j] = -np.inf
        for j in range(min(columns, max(0, first + i + right + 1)), columns):
            row[j] = -np.inf


# Masks and biases may have size 1 along batch, heads and queries: the last index serves all.


@block
def any_visible(mask, batch, head, i0, i1, j0, j1):
    """Whether mask (batch|1, heads|1, n_q|1, n_k) is True anywhere in the tile."""
    b, h = min(batch, mask.shape[0] - 1), min(head, mask.shape[1] - 1)
    for i in range(i0, i1):
        row = mask[b, h, min(i, mask.shape[2] - 1)]
        for j in range(j0, j1):
            if row[j]:
                return True
    return False


@block
def hide_masked(s, mask, batch, head, i0, j0):
    """s <- -inf where the mask (batch|1, heads|1, n_q|1, n_k) is False; s begins at (i0, j0)."""
    b, h = min(batch, mask.shape[0] - 1), min(head, mask.shape[1] - 1)
    hidden = s.dtype.type(-np.inf)
    for i in range(s.shape[0]):
        row = packed(s[i])
        visible = packed(mask[b, h, min(i0 + i, mask.shape[2] - 1), j0 : j0 + row.size])
        for j in range(row.size):
            row[j] = row[j] if visible[j] else hidden


@block
def add_bias(s, bias, batch, head, i0, j0):
    """s += the tile of bias (batch|1, heads|1, n_q|1, n_k) that begins at (i0, j0)."""
    b, h = min(batch, bias.shape[0] - 1), min(head, bias.shape[1] - 1)
    for i in range(s.shape[0]):
        row = packed(s[i])
        added = packed(bias[b, h, min(i0 + i, bias.shape[2] - 1), j0 : j0 + row.size])
        for j in range(row.size):
            row[j] += added[j]


@worker
def transpose_keys(k, kt, counter):
    """kt (batch, kv_heads, tiles, dim, columns) <- k (batch, kv_heads, n_k, dim), tile by tile."""
    _, heads, tiles, _, columns = kt.shape
    while True:
        item = fetch_add(counter, 1)
        if item >= kt.shape[0] * heads * tiles:
            break
        b, h, t = item // tiles // heads, item // tiles % heads, item % tiles
        transpose_tile(k[b, h, t * columns : min((t + 1) * columns, k.shape[2])], kt[b, h, t])


@worker
def attend_tiles(
    q, k, v, kt, mask, bias, out, lse, numbers, left, right, masked, biased, tile_q, tile_k, counter
):
    """One worker's share of `flash_attention`: tiles of queries, taken from the counter.

    kt: the transposed keys, or empty, then k is read. numbers: [scale, 0, 1, 1]. mask and bias may be of
    size 1 where masked and biased are False.
    """
    _, heads, n_q, _ = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    tiles_q = (n_q + tile_q - 1) // tile_q
    shift = n_k - n_q  # query i stands at key position i + shift
    score, accumulate = numbers[:2], numbers[2:]
    s_tile = scratch.tile((tile_q, tile_k), q.dtype)
    running = scratch.tile((2, tile_q), q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= q.shape[0] * heads * tiles_q:
            break
        # Heads outermost: the workers share one head's keys in cache. Last queries first: under a
        # causal mask they see most, and short pieces at the end even out the workers.
        b, h = item // tiles_q // heads, item // tiles_q % heads
        i0 = (tiles_q - 1 - item % tiles_q) * tile_q
        i1 = min(i0 + tile_q, n_q)
        rows, kv_head = i1 - i0, h // group
        q_tile, acc = q[b, h, i0:i1], out[b, h, i0:i1]
        m, l = running[0, :rows], running[1, :rows]
        start(m, l, acc)

        first, last = i0 + shift, i1 - 1 + shift  # positions of the tile's queries
        j_begin, j_end = max(0, first - left), min(n_k, last + right + 1)
        for t in range(j_begin // tile_k, (j_end + tile_k - 1) // tile_k):
            j0, j1 = t * tile_k, min((t + 1) * tile_k, j_end)
            if masked and not any_visible(mask, b, h, i0, i1, j0, j1):
                continue
            s = s_tile[:rows, : j1 - j0]
            if kt.size > 0:
                gemm_nn(score, q_tile, kt[b, kv_head, t, :, : j1 - j0], s)
            else:
                gemm_nt(score, q_tile, k[b, kv_head, j0:j1], s)
            if biased:
                add_bias(s, bias, b, h, i0, j0)
            if masked:
                hide_masked(s, mask, b, h, i0, j0)
            if j0 < last - left or j1 - 1 > first + right:
                hide_outside_band(s, first - j0, left, right)
            update(s, m, l, acc, v[b, kv_head, j0:j1], accumulate)
        finish(m, l, acc, lse[b, h, i0:i1])


def flash_attention(
    q: Float[np.ndarray, "batch heads n_q dim"],
    k: Float[np.ndarray, "batch kv_heads n_k dim"],
    v: Float[np.ndarray, "batch kv_heads n_k dim_v"],
    *,
    scale: float | None = None,
    causal: bool = False,
    left: int | None = None,
    mask: Bool[np.ndarray, "batch|1 heads|1 n_q|1 n_k"] | None = None,
    bias: Float[np.ndarray, "batch|1 heads|1 n_q|1 n_k"] | None = None,
) -> Attended:
    """softmax(scale q k^T + bias) v over the keys that each query sees, and the log-sum-exp.

    kv_heads divides heads: query head h reads key head h // (heads // kv_heads). Query i stands at
    key position p = i + n_k - n_q. causal: it sees keys j <= p; left: keys j >= p - left; mask:
    keys where True. A query that sees nothing gives 0, with log-sum-exp -inf. scale: 1/sqrt(dim) if
    None. float32 or float64, as q; other arrays are converted to it.
    """
    q = contiguous(q)
    k, v = contiguous(k, q.dtype), contiguous(v, q.dtype)
    batch, heads, n_q, dim = q.shape
    n_k = k.shape[2]
    out = scratch.empty((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = scratch.empty((batch, heads, n_q), q.dtype)
    tile_q, tile_k = tile_sizes(n_q, n_k, max(dim, v.shape[3]))
    transposes = n_q * heads >= TRANSPOSE_FROM * k.shape[1]
    kt_shape = (batch, k.shape[1], -(-n_k // tile_k) if transposes else 0, dim, tile_k)
    kt = scratch.empty(kt_shape, q.dtype)
    absent = (1, 1, 1, 1)
    # a thread takes about 50 µs to start: short inputs stay on one
    workers = None if batch * heads * n_q * n_k * (dim + v.shape[3]) > 2**23 else 1
    with single_threaded_blas():
        if transposes:
            run_workers(transpose_keys, k, kt, np.zeros(1, np.int64), workers=workers)
        run_workers(
            attend_tiles,
            *(q, k, v, kt),
            contiguous(np.ones(absent, bool) if mask is None else mask),
            contiguous(np.zeros(absent, q.dtype) if bias is None else bias, q.dtype),
            *(out, lse),
            np.array([1 / np.sqrt(dim) if scale is None else scale, 0, 1, 1], q.dtype),
            UNBOUNDED if left is None else left,
            0 if causal else UNBOUNDED,
            mask is not None,
            bias is not None,
            *(tile_q, tile_k, np.zeros(1, np.int64)),
            workers=workers,
        )
    return Attended(out, lse)
