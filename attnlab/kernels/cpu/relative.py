"""Attention whose scores add q . e(j - i), a learned vector for each offset, in linear memory.

For a tile of queries x keys the offsets span rows + columns - 1 consecutive table rows, a slab. One
product of the queries with the slab holds all the relative scores: row i of the tile finds its own
as a contiguous piece that moves one to the left with each row (Huang et al. 2018 skew the whole
n x n array so; here no such array exists). Values relative to offsets go the same way back.
"""

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.flash import (
    SMALL_PRODUCT,
    UNBOUNDED,
    Attended,
    hide_outside_band,
    tile_sizes,
    transpose_keys,
)
from attnlab.kernels.cpu.runtime import (
    block,
    contiguous,
    fetch_add,
    run_workers,
    single_threaded_blas,
    worker,
)
from attnlab.kernels.cpu.scratch import packed
from attnlab.kernels.cpu.softmax import finish, start, weigh


@block
def add_diagonals(s, by_offset):
    """s[i, j] += by_offset[i, j - i + rows - 1]; s (rows, columns), by_offset wider by rows - 1."""
    rows, columns = s.shape
    for i in range(rows):
        row, shifted = packed(s[i]), packed(by_offset[i, rows - 1 - i :])
        for j in range(columns):
            row[j] += shifted[j]


@block
def spread_diagonals(s, by_offset):
    """by_offset[i, j - i + rows - 1] <- s[i, j], elsewhere 0: the way back of `add_diagonals`."""
    rows, columns = s.shape
    for i in range(rows):
        row, shifted = packed(s[i]), packed(by_offset[i])
        for c in range(shifted.size):
            shifted[c] = 0
        for j in range(columns):
            shifted[rows - 1 - i + j] = row[j]


@worker
def attend_relative(
    q, kt, v, keys, values, lengths, out, lse, score, right, zero, tile_q, tile_k, counter
):
    """One worker's share of `relative_attention`.

    kt: the keys, transposed in tiles. keys (tables, dim, width): the table's columns, offset o in
    column zero + o; values (tables, width, dim_v) or empty. score: [scale, 0].
    """
    _, heads, n_q, _ = q.shape
    n_k = v.shape[2]
    tiles_q = (n_q + tile_q - 1) // tile_q
    shift = n_k - n_q  # query i stands at key position i + shift
    accumulate = np.ones(2, q.dtype)
    s_tile = scratch.tile((tile_q, tile_k), q.dtype)
    slab = scratch.tile((tile_q, tile_q + tile_k), q.dtype)
    running = scratch.tile((2, tile_q), q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= q.shape[0] * heads * tiles_q:
            break
        b, h = item // tiles_q // heads, item // tiles_q % heads
        i0 = (tiles_q - 1 - item % tiles_q) * tile_q  # the longest first, as in `flash`
        i1 = min(i0 + tile_q, n_q)
        rows = i1 - i0
        q_tile, acc = q[b, h, i0:i1], out[b, h, i0:i1]
        m, l = running[0, :rows], running[1, :rows]
        start(m, l, acc)
        first, last = i0 + shift, i1 - 1 + shift
        j_end = min(lengths[b], last + right + 1)
        for t in range((j_end + tile_k - 1) // tile_k):
            j0, j1 = t * tile_k, min((t + 1) * tile_k, j_end)
            s = s_tile[:rows, : j1 - j0]
            by_offset = slab[:rows, : rows + j1 - j0 - 1]
            c0, c1 = zero + j0 - last, zero + j1 - first  # columns of the tile's offsets
            gemm_nn(score, q_tile, kt[b, h, t, :, : j1 - j0], s)
            gemm_nn(score, q_tile, keys[min(h, keys.shape[0] - 1), :, c0:c1], by_offset)
            add_diagonals(s, by_offset)
            if j1 - 1 > first + right:
                hide_outside_band(s, first - j0, UNBOUNDED, right)
            weigh(s, m, l, acc)
            gemm_nn(accumulate, s, v[b, h, j0:j1], acc)
            if values.size > 0:
                spread_diagonals(s, by_offset)
                gemm_nn(accumulate, by_offset, values[min(h, values.shape[0] - 1), c0:c1], acc)
        finish(m, l, acc, lse[b, h, i0:i1])


def relative_attention(
    q: Float[np.ndarray, "batch heads n_q dim"],
    k: Float[np.ndarray, "batch heads n_k dim"],
    v: Float[np.ndarray, "batch heads n_k dim_v"],
    keys: Float[np.ndarray, "heads|1 offsets dim"],
    values: Float[np.ndarray, "heads|1 offsets dim_v"] | None = None,
    *,
    first_offset: int,
    scale: float | None = None,
    causal: bool = False,
    lengths: Int[np.ndarray, "batch"] | None = None,
) -> Attended:
    """softmax(scale q (k_j + keys[j - p])) (v_j + values[j - p]), and the log-sum-exp.

    Row r of the tables belongs to offset j - p = first_offset + r; offsets outside the table have
    the zero vector. Query i stands at key position p = i + n_k - n_q, so n_q <= n_k (ValueError).
    causal: keys j <= p only; lengths: of batch element b only keys j < lengths[b]. A query that
    sees nothing gives 0, log-sum-exp -inf. scale: 1/sqrt(dim) if None. float32 or float64, as q.
    """
    q = contiguous(q)
    k, v = contiguous(k, q.dtype), contiguous(v, q.dtype)
    batch, heads, n_q, dim = q.shape
    n_k, dim_v = v.shape[2:]
    if n_q > n_k:
        raise ValueError(f"n_q: at most n_k = {n_k} queries, got {n_q}")
    if lengths is None:
        lengths = np.full(batch, n_k)

    # the widest product is queries x slab: shorten the tile until it is a small one
    tile_q, tile_k = tile_sizes(n_q, n_k, max(dim, dim_v))
    tile_q = min(tile_q, max(8, SMALL_PRODUCT // (max(dim, dim_v) * (tile_k + 64)) // 4 * 4))

    # all offsets that occur, -(n_k - 1) .. n_k - 1, or up to the end of the last tile if causal
    zero = n_k - 1
    width = n_k + (min(n_k, tile_q + tile_k) if causal else n_k)
    width += 16 if width % 64 == 0 else 0  # rows a power of two apart would share cache sets
    slab_keys = np.zeros((keys.shape[0], dim, width), q.dtype)
    slab_values = np.zeros((0 if values is None else values.shape[0], width, dim_v), q.dtype)
    begin = max(0, zero + first_offset)
    skipped = begin - (zero + first_offset)
    count = max(0, min(width - begin, keys.shape[1] - skipped))
    slab_keys[:, :, begin : begin + count] = keys[:, skipped : skipped + count].transpose(0, 2, 1)
    if values is not None:
        slab_values[:, begin : begin + count] = values[:, skipped : skipped + count]

    kt = scratch.empty((batch, heads, -(-n_k // tile_k), dim, tile_k), q.dtype)
    out = scratch.empty((batch, heads, n_q, dim_v), q.dtype)
    lse = scratch.empty((batch, heads, n_q), q.dtype)
    with single_threaded_blas():
        run_workers(transpose_keys, k, kt, np.zeros(1, np.int64))
        run_workers(
            attend_relative,
            *(q, kt, v, slab_keys, slab_values),
            np.minimum(contiguous(lengths, np.int64), n_k),
            *(out, lse),
            np.array([dim**-0.5 if scale is None else scale, 0], q.dtype),
            0 if causal else UNBOUNDED,
            *(zero, tile_q, tile_k, np.zeros(1, np.int64)),
        )
    return Attended(out, lse)
