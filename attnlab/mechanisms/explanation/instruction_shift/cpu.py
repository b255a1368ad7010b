"""Instruction shift on the CPU: importances in tiles of response tokens, words by heaps.

The T backward passes are products of matrices (see torch.py); a tile of response tokens goes from
scores to importances without leaving its thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt
from attnlab.kernels.cpu.product import linear, product
from attnlab.kernels.cpu.runtime import (
    block,
    contiguous,
    fetch_add,
    run_workers,
    single_threaded_blas,
    worker,
)
from attnlab.kernels.cpu.scratch import packed
from attnlab.kernels.cpu.softmax import softmax_row
from attnlab.kernels.cpu.topk import top_k as heap_top_k
from attnlab.kernels.cpu.vector import dot

from . import EXHIBIT

FIRST_WORDS = 3000
TILE = 32  # response tokens of a tile
STRIP = 256  # columns whose maximum a worker takes at a time
SLACK = 1e-3  # what a cosine from a product of tiles may lack against the exact one


@EXHIBIT.path
def attribute(
    input_ids: Int[np.ndarray, "n"],
    output_ids: Int[np.ndarray, "T"],
    instruction_mask: Bool[np.ndarray, "n"],
    emb: Float[np.ndarray, "V d"],
    u: Float[np.ndarray, "V d"],
    wq: Float[np.ndarray, "d d"],
    wk: Float[np.ndarray, "d d"],
    wv: Float[np.ndarray, "d d"],
    wo: Float[np.ndarray, "d d"],
    *,
    L: int = 10,
    b: int = 7,
    p: float = 4.0,
    bos_id: int = 1,
    eps: float = 1e-7,
    eps_analysis: float = 1e-9,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference."""
    n, T, dtype = len(input_ids), len(output_ids), emb.dtype
    x = emb[np.concatenate([[bos_id], input_ids, output_ids[:-1]])]  # (n + T, d)
    q, k = linear(x[n:], wq), linear(x, wk)
    v = linear(linear(x, wv), wo)
    importance = scratch.empty((n, T), dtype)
    peaks, confidence = scratch.empty(T, dtype), scratch.empty(T, dtype)
    busy = None if T * (n + T + len(u)) * emb.shape[1] > 2**20 else 1
    with single_threaded_blas():
        run_workers(
            attribute_tiles, x, q, k, v, u, output_ids, importance, peaks, confidence,
            np.zeros(1, np.int64), workers=busy,
        )  # fmt: skip
    a = _densities(importance, peaks, L, eps_analysis, b, p)
    a = a / (a.max() + 1e-9)
    score = a[instruction_mask].sum() / np.log2(2 + instruction_mask.sum())
    levels = scratch.empty((n, T), dtype) if "levels_0_10" in want else None
    raw = _densities(importance, peaks, L, eps, b, p, levels)
    return {
        "importance": importance,
        "confidence": confidence,
        "levels_0_10": levels,
        "density_raw": raw.astype(dtype),
        "density_normalised": a.astype(dtype),
        "instruction_score": np.asarray(score, dtype),
    }


@EXHIBIT.path
def density(
    importance: Float[np.ndarray, "n T"],
    levels: Float[np.ndarray, "n T"] | None = None,
    *,
    L: int = 10,
    p: float = 4.0,
    thresholds: list[int] = [7],  # noqa: B006 -- never changed
    prequantised_b: int = 7,
    eps: float = 1e-9,
    detect_levels: bool = True,
) -> dict[str, Any]:
    """See the reference."""
    dtype, T = importance.dtype, importance.shape[1]
    peaks = scratch.empty(T, dtype)
    run_workers(
        column_peaks, importance, peaks, np.zeros(1, np.int64),
        workers=None if importance.size > 2**18 else 1,
    )  # fmt: skip
    given = detect_levels and peaks.max() == L and importance.min() == 0

    def normalised(values: np.ndarray, quantised: bool, b: int) -> np.ndarray:
        a = _densities(values, peaks[:0] if quantised else peaks, L, eps, b, p)
        return (a / (a.max() + 1e-9)).astype(dtype)

    made: dict[str, Any] = {"density_b": {b: normalised(importance, given, b) for b in thresholds}}
    if levels is not None:
        made["density_prequantised_b"] = {prequantised_b: normalised(levels, True, prequantised_b)}
    return made


@EXHIBIT.path
def word_patterns(
    word_embed_in: Float[np.ndarray, "V d"],
    word_embed_out: Float[np.ndarray, "V d"],
    static_embed: Float[np.ndarray, "V g"],
    q_proj: Float[np.ndarray, "H*h d"],
    k_proj: Float[np.ndarray, "H_kv*h d"],
    input_norm: Float[np.ndarray, "d"],
    down_proj: Float[np.ndarray, "d m"],
    *,
    n_q_heads: int,
    n_kv_heads: int,
    top_k: int = 100,
    ffn_top_k: int = 50,
    ffn_rank: int = 300,
) -> dict[str, Any]:
    """See the reference."""
    V, h = len(word_embed_in), len(q_proj) // n_q_heads
    K = min(top_k, V)
    Hq, Hk = (linear(w * input_norm, word_embed_in) for w in (q_proj, k_proj))  # (H h, V)
    (queries, squares_q), (keys, squares_k) = (_strongest(H, K, True) for H in (Hq, Hk))
    shared = np.arange(n_q_heads).repeat(h) // (n_q_heads // n_kv_heads)
    of_key = shared * h + np.tile(np.arange(h), n_q_heads)  # (H h,): the key row of a query row
    g = _unit_rows(static_embed)
    pool = np.empty((len(q_proj), K * K), np.int32)
    counts = scratch.empty(len(q_proj), np.int64)
    with single_threaded_blas():
        run_workers(
            pair_words, Hq, Hk, queries, keys, of_key, g, _thresholds(g), pool, counts,
            np.zeros(1, np.int64), workers=None if len(q_proj) * K > 2**9 else 1,
        )  # fmt: skip

    heads = []
    N = squares_q + squares_k[of_key]
    for i in range(n_q_heads):
        own = np.arange(i * h, (i + 1) * h)
        own = own[np.argsort(-N[own], kind="stable")]
        place = np.arange(counts[own].max())
        kept = place < counts[own][:, None]
        code = np.where(kept, pool[own][:, : len(place)], 0)
        at_k, at_q = code // K, code % K
        pairs = np.stack(
            [
                np.take_along_axis(keys[of_key[own]], at_k, 1),
                np.take_along_axis(queries[own], at_q, 1),
            ],
            axis=-1,
        )
        heads.append(
            {
                "dim_order": own - i * h,
                "activation": N[own],
                "pairs_k_q": np.where(kept[..., None], pairs, -1),
            }
        )

    W = down_proj.T - down_proj.T.mean(axis=0)
    _, S, V_t = np.linalg.svd(W, full_matrices=False)
    match = linear(V_t[:ffn_rank], _unit_rows(word_embed_out))  # (rank, V)
    share = S**2 / (S**2).sum()
    return {
        "head": heads,
        "ffn_top_words": _strongest(match, min(ffn_top_k, V), False)[0],
        "ffn_variance_share": share[:ffn_rank],
    }


@EXHIBIT.path
def locate_spans(
    text: Int[np.ndarray, "n"], patterns: Int[np.ndarray, "m w"], *, must_find: bool = False
) -> dict[str, Any]:
    """See the reference."""
    position = scratch.empty(len(patterns), np.int64)
    search(text, patterns, position)
    return {"position": position}


def _densities(
    values: Float[np.ndarray, "n T"],
    peaks: Float[np.ndarray, "T"],
    L: int,
    eps: float,
    b: int,
    p: float,
    levels: Float[np.ndarray, "n T"] | None = None,
) -> np.ndarray:
    """(2), (3) of importances; without peaks the values are levels. `levels` takes them, uncut."""
    dtype = values.dtype
    norms = scratch.empty((len(values), 2), np.float64)
    kept = np.empty((0, 0), dtype) if levels is None else levels
    scale = np.array([L, eps], dtype)
    run_workers(
        row_norms, values, peaks, scale, float(b), p, kept, norms, np.zeros(1, np.int64),
        workers=None if values.size > 2**17 else 1,
    )  # fmt: skip
    return norms[:, 0] / (norms[:, 1] ** (1 / p) + eps)


def _strongest(H: np.ndarray, k: int, ascending: bool) -> tuple[np.ndarray, np.ndarray]:
    """The k words of largest |value| of each row, by falling value or by number; sums of squares."""
    words, squares = scratch.empty((len(H), k), np.int64), scratch.empty(len(H), H.dtype)
    run_workers(
        strongest, H, ascending, words, squares, np.zeros(1, np.int64),
        workers=None if H.size > 2**16 else 1,
    )  # fmt: skip
    return words, squares


def _unit_rows(x: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rows d"]:
    length = np.sqrt(np.einsum("rd,rd->r", x, x))[:, None]
    return x / np.where(length > 0, length, x.dtype.type(1))


def _thresholds(g: Float[np.ndarray, "V g"]) -> Float[np.ndarray, "V"]:
    """theta of (7): the variance of g_w . g_v over v is g_w^T Cov(g_v) g_w."""
    w = g.astype(np.float64)
    first = w[:FIRST_WORDS]
    mean = first.mean(axis=0)
    root = contiguous(((first - mean) / len(first) ** 0.5).T)
    variance = np.einsum("vg,vg->v", product(w, linear(root, root)), w)
    return (w @ mean + 1.96 * np.sqrt(np.maximum(variance, 0))).astype(g.dtype)


@worker
def attribute_tiles(x, q, k, v, u, output_ids, importance, peaks, confidence, counter):
    """(1) for tiles of response tokens; peaks: the largest positive importance of each."""
    n, T = importance.shape
    V, d = u.shape
    scores = scratch.tile((TILE, n + T), x.dtype)
    weights = scratch.tile((TILE, n + T), x.dtype)
    c = scratch.tile((TILE, n + T), x.dtype)
    prob = scratch.tile((TILE, V), x.dtype)
    h = scratch.tile((TILE, d), x.dtype)
    d_h = scratch.tile((TILE, d), x.dtype)
    put, add, scale = np.zeros(2, x.dtype), np.ones(2, x.dtype), np.zeros(2, x.dtype)
    put[0], scale[0] = 1, 1 / np.sqrt(d)
    zero = x.dtype.type(0)
    while True:
        first = fetch_add(counter, TILE)
        if first >= T:
            break
        rows = min(TILE, T - first)
        width = n + first + rows  # the tile's last row sees positions 0..width-1
        S, A, C = scores[:rows, :width], weights[:rows, :width], c[:rows, :width]
        gemm_nt(scale, q[first : first + rows], k[:width], S)
        for j in range(rows):
            seen = n + first + j + 1
            s, row = packed(S[j]), packed(A[j])
            for i in range(width):
                row[i] = s[i]
            softmax_row(row[:seen])
            for i in range(seen, width):
                row[i], s[i] = zero, zero
            for e in range(d):
                h[j, e] = x[n + first + j, e]
        gemm_nn(add, A, v[:width], h[:rows])
        gemm_nt(put, h[:rows], u, prob[:rows])
        for j in range(rows):
            softmax_row(packed(prob[j]))
            confidence[first + j] = prob[j, output_ids[first + j]]
        gemm_nn(put, prob[:rows], u, d_h[:rows])
        for j in range(rows):
            y, sure = output_ids[first + j], confidence[first + j]
            for e in range(d):
                d_h[j, e] = sure * (u[y, e] - d_h[j, e])
        gemm_nt(put, d_h[:rows], v[:width], C)
        for j in range(rows):
            s, row, own = packed(S[j]), packed(A[j]), packed(C[j])
            mean = zero
            for i in range(width):
                mean += row[i] * own[i]
            through = zero
            for i in range(width):
                d_s = row[i] * (own[i] - mean) * s[i]
                through += d_s
                own[i] = row[i] * own[i] + d_s  # as value, as key
            if first + j == 0:  # the last prompt token: as query, in the residual stream
                for e in range(d):
                    through += x[n, e] * d_h[j, e]
                own[n] += through
            peak = zero
            for i in range(1, n + 1):
                peak = max(peak, own[i])
            peaks[first + j] = peak
        for i in range(n):
            for j in range(rows):
                importance[i, first + j] = c[j, i + 1]


@worker
def column_peaks(values, peaks, counter):
    """peaks <- the largest positive value of each column."""
    while True:
        first = fetch_add(counter, STRIP)
        if first >= peaks.size:
            break
        last = min(first + STRIP, peaks.size)
        peak = peaks[first:last]
        for j in range(peak.size):
            peak[j] = values.dtype.type(0)
        for i in range(values.shape[0]):
            row = packed(values[i, first:last])
            for j in range(row.size):
                peak[j] = max(peak[j], row[j])


@block(fastmath=False)
def level_row(row, peaks, scale, out):
    """(2) before the cut; divided exactly as in the reference, because a ceiling shows the last bit."""
    zero = row.dtype.type(0)
    for j in range(row.size):
        out[j] = min(np.ceil(scale[0] * max(row[j], zero) / (peaks[j] + scale[1])), scale[0])


@worker
def row_norms(values, peaks, scale, b, p, kept, norms, counter):
    """norms (n, 2) <- sum of l and of l^p over the levels above b; kept (n, T) <- levels if asked."""
    room = scratch.tile(values.shape[1], values.dtype)
    while True:
        i = fetch_add(counter, 1)
        if i >= values.shape[0]:
            break
        if peaks.size > 0:
            level_row(values[i], peaks, scale, room)
        else:
            for j in range(room.size):
                room[j] = values[i, j]
        total, powers = 0.0, 0.0
        for j in range(room.size):
            l = np.float64(room[j])
            if l > b:
                total += l
                powers += l * l * l * l if p == 4.0 else l**p
        norms[i, 0], norms[i, 1] = total, powers
        if kept.size > 0:
            for j in range(room.size):
                kept[i, j] = room[j]


@worker
def strongest(H, ascending, words, squares, counter):
    """The words of largest |H| (ties: the lower number first) and the sum of squares of each row."""
    V, k = H.shape[1], words.shape[1]
    size = scratch.tile(V, H.dtype)
    best = scratch.tile(k, H.dtype)
    chosen = np.zeros(V, np.bool_)
    while True:
        r = fetch_add(counter, 1)
        if r >= H.shape[0]:
            break
        row = H[r]
        total = H.dtype.type(0)
        for w in range(V):
            size[w] = abs(row[w])
            total += row[w] * row[w]
        squares[r] = total
        heap_top_k(size, best, words[r])
        if ascending:
            for j in range(k):
                chosen[words[r, j]] = True
            found = 0
            for w in range(V):
                if chosen[w]:
                    words[r, found] = w
                    found += 1
                    chosen[w] = False


@worker
def pair_words(Hq, Hk, queries, keys, of_key, g, theta, pool, counts, counter):
    """(7) of each dimension: pool (H h, K K) <- places at_k K + at_q of the kept pairs, in order."""
    K, width = queries.shape[1], g.shape[1]
    g_k, g_q = scratch.tile((K, width), g.dtype), scratch.tile((K, width), g.dtype)
    C = scratch.tile((K, K), g.dtype)
    cosine, sorted_cosine = scratch.tile(K * K, g.dtype), scratch.tile(K * K, g.dtype)
    code, order = scratch.tile(K * K, np.int64), scratch.tile(K * K, np.int64)
    put = np.zeros(2, g.dtype)
    put[0] = 1
    zero = g.dtype.type(0)
    while True:
        r = fetch_add(counter, 1)
        if r >= queries.shape[0]:
            break
        t = of_key[r]
        for j in range(K):
            for e in range(width):
                g_k[j, e], g_q[j, e] = g[keys[t, j], e], g[queries[r, j], e]
        gemm_nt(put, g_k, g_q, C)
        found = 0
        for i in range(K):
            key = keys[t, i]
            for j in range(K):
                query = queries[r, j]
                bar = max(max(theta[key], theta[query]), zero)
                if C[i, j] < bar - g.dtype.type(SLACK) or key == query:
                    continue
                # always the lower word first: (a, b) and (b, a) are to tie exactly
                exact = dot(g[min(key, query)], g[max(key, query)])
                if exact > bar and Hk[t, key] * Hq[r, query] > zero:
                    cosine[found], code[found] = exact, i * K + j
                    found += 1
        counts[r] = found
        heap_top_k(cosine[:found], sorted_cosine[:found], order[:found])
        for j in range(found):
            pool[r, j] = code[order[j]]


@worker
def search(text, patterns, position):
    """Knuth, Morris and Pratt for each pattern."""
    back = scratch.tile(patterns.shape[1], np.int64)
    for m in range(patterns.shape[0]):
        pattern = patterns[m]
        length = 0
        while length < pattern.size and pattern[length] >= 0:
            length += 1
        position[m] = 0 if length == 0 else -1
        if length == 0:
            continue
        back[0], matched = 0, 0
        for i in range(1, length):
            while matched > 0 and pattern[i] != pattern[matched]:
                matched = back[matched - 1]
            matched += pattern[i] == pattern[matched]
            back[i] = matched
        matched = 0
        for i in range(text.size):
            while matched > 0 and text[i] != pattern[matched]:
                matched = back[matched - 1]
            matched += text[i] == pattern[matched]
            if matched == length:
                position[m] = i + 1 - length
                break
