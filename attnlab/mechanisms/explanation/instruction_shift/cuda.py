"""Instruction shift on CUDA: products of matrices, a block a row for softmax and norms."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.matmul import linear, matmul
from attnlab.kernels.cuda.tiles import least, most

from . import EXHIBIT

FIRST_WORDS = 3000


@EXHIBIT.path
def attribute(
    input_ids: Any,
    output_ids: Any,
    instruction_mask: Any,
    emb: Any,
    u: Any,
    wq: Any,
    wk: Any,
    wv: Any,
    wo: Any,
    *,
    L: int = 10,
    b: int = 7,
    p: float = 4.0,
    bos_id: int = 1,
    eps: float = 1e-7,
    eps_analysis: float = 1e-9,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference, and torch.py for the closed form."""
    n, T = input_ids.shape[0], output_ids.shape[0]
    d = emb.shape[1]
    dtype = np.dtype(emb.dtype)
    x = device.empty((n + T, d), dtype)
    _read()[device.blocks(x.size), THREADS](emb, bos_id, input_ids, output_ids, x)
    q, k, v = linear(x[n:], wq), linear(x, wk), linear(linear(x, wv), wo)
    S = matmul(_one(q), _one(k), transposed=True)[0]  # (T, n + T)
    A = device.empty(S.shape, dtype)
    _weights()[T, THREADS](S, dtype.type(d**-0.5), n, A)
    h = matmul(_one(A), _one(v))[0]
    _plus()[device.blocks(h.size), THREADS](h, x, n)
    prob = linear(h, u)  # (T, V)
    confidence = device.empty(T, dtype)
    _softmax()[T, THREADS](prob, output_ids, confidence)
    d_h = matmul(_one(prob), _one(u))[0]  # sum_v p_v u_v
    _towards()[device.blocks(d_h.size), THREADS](d_h, u, output_ids, confidence)
    c = matmul(_one(d_h), _one(v), transposed=True)[0]
    means, first = device.empty(T, dtype), device.empty(1, dtype)
    _means()[T, THREADS](S, A, c, x, d_h, n, means, first)
    importance = device.empty((n, T), dtype)
    _importance()[device.blocks(n * T), THREADS](S, A, c, means, first, importance)

    peaks = _peaks_of(importance)
    _, a = _densities(importance, peaks, L, eps_analysis, b, p)
    levels, raw = _densities(importance, peaks, L, eps, b, p)
    mask = instruction_mask.copy_to_host().astype(bool)
    normalised = _normalised(a)
    score = normalised.copy_to_host()[mask].sum() / np.log2(2 + mask.sum())
    return {
        "importance": importance,
        "confidence": confidence,
        "levels_0_10": levels,
        "density_raw": raw,
        "density_normalised": normalised,
        "instruction_score": cuda.to_device(np.asarray(score, dtype)),
    }


@EXHIBIT.path
def density(
    importance: Any,
    levels: Any = None,
    *,
    L: int = 10,
    p: float = 4.0,
    thresholds: list[int] = [7],  # noqa: B006 -- never changed
    prequantised_b: int = 7,
    eps: float = 1e-9,
    detect_levels: bool = True,
) -> dict[str, Any]:
    """See the reference."""
    peaks = _peaks_of(importance)
    given = detect_levels and peaks.copy_to_host().max() == L
    given = given and importance.copy_to_host().min() == 0
    own = None if given else peaks
    made: dict[str, Any] = {
        "density_b": {
            b: _normalised(_densities(importance, own, L, eps, b, p)[1]) for b in thresholds
        }
    }
    if levels is not None:
        a = _densities(levels, None, L, eps, prequantised_b, p)[1]
        made["density_prequantised_b"] = {prequantised_b: _normalised(a)}
    return made


@EXHIBIT.path
def word_patterns(
    word_embed_in: Any,
    word_embed_out: Any,
    static_embed: Any,
    q_proj: Any,
    k_proj: Any,
    input_norm: Any,
    down_proj: Any,
    *,
    n_q_heads: int,
    n_kv_heads: int,
    top_k: int = 100,
    ffn_top_k: int = 50,
    ffn_rank: int = 300,
) -> dict[str, Any]:
    """See the reference. Lists and cosines are made on the device; the short lists of kept pairs are
    ordered on the host, where the library's SVD runs too."""
    V = word_embed_in.shape[0]
    H, h = n_q_heads, q_proj.shape[0] // n_q_heads
    dtype = np.dtype(word_embed_in.dtype)
    E = device.empty(word_embed_in.shape, dtype)
    _times()[device.blocks(E.size), THREADS](word_embed_in, input_norm, E)
    Hq, Hk = (
        linear(E, q_proj),
        linear(E, k_proj),
    )  # (V, H h), (V, H_kv h): threads run along columns
    queries, squares_q = _strongest(Hq, min(top_k, V))
    keys, squares_k = _strongest(Hk, min(top_k, V))
    g = _unit(static_embed)
    theta = device.empty(V, dtype)
    _theta()[V, THREADS](g, min(V, FIRST_WORDS), theta)
    kept = device.empty((H * h, keys.shape[0], queries.shape[0]), dtype)
    _cosines()[device.blocks(kept.size), THREADS](
        Hq, Hk, queries, keys, g, theta, h, H // n_kv_heads, kept
    )

    queries, keys, kept = (a.copy_to_host() for a in (queries, keys, kept))
    rows = np.arange(H * h)
    of_key = rows // h // (H // n_kv_heads) * h + rows % h
    N = squares_q.copy_to_host() + squares_k.copy_to_host()[of_key]
    heads = []
    for i in range(H):
        own = rows[i * h : (i + 1) * h]
        own = own[np.argsort(-N[own], kind="stable")]
        lists = [_ordered(kept[r], keys[:, of_key[r]], queries[:, r]) for r in own]
        pairs = np.full((h, max(len(row) for row in lists), 2), -1)
        for place, row in enumerate(lists):
            pairs[place, : len(row)] = row
        made = {"dim_order": own - i * h, "activation": N[own], "pairs_k_q": pairs}
        heads.append({name: cuda.to_device(value) for name, value in made.items()})

    W = down_proj.copy_to_host().T
    _, S, V_t = np.linalg.svd(W - W.mean(axis=0), full_matrices=False)
    directions = cuda.to_device(np.ascontiguousarray(V_t[:ffn_rank]))
    match = linear(_unit(word_embed_out), directions)  # (V, rank)
    words = _strongest(match, min(ffn_top_k, V))[0].copy_to_host().T
    share = (S**2 / (S**2).sum())[:ffn_rank]
    return {
        "head": heads,
        "ffn_top_words": cuda.to_device(np.ascontiguousarray(words)),
        "ffn_variance_share": cuda.to_device(share),
    }


def _one(x: Any) -> Any:
    return x.reshape(1, *x.shape)


def _peaks_of(importance: Any) -> Any:
    peaks = device.empty(importance.shape[1], importance.dtype)
    _peaks()[device.blocks(peaks.size), THREADS](importance, peaks)
    return peaks


def _densities(values: Any, peaks: Any, L: int, eps: float, b: int, p: float) -> tuple[Any, Any]:
    """(levels, (3)); without peaks the values are levels."""
    dtype = np.dtype(values.dtype)
    levels = values
    if peaks is not None:
        levels = device.empty(values.shape, dtype)
        grid = device.blocks(values.size)
        _levels()[grid, THREADS](values, peaks, dtype.type(L), dtype.type(eps), levels)
    a = device.empty(values.shape[0], dtype)
    _norms()[values.shape[0], THREADS](levels, float(b), p, eps, a)
    return levels, a


def _normalised(a: Any) -> Any:
    host = a.copy_to_host()
    return cuda.to_device(host / (host.max() + host.dtype.type(1e-9)))


def _unit(x: Any) -> Any:
    out = device.empty(x.shape, x.dtype)
    _unit_rows()[device.blocks(x.shape[0]), THREADS](x, out)
    return out


def _strongest(H: Any, k: int) -> tuple[Any, Any]:
    """words (k, columns) of largest |H| and the sum of squares of each column of H (V, columns)."""
    columns = H.shape[1]
    words, size = device.empty((k, columns), np.int64), device.empty((k, columns), H.dtype)
    squares = device.empty(columns, H.dtype)
    _columns()[device.blocks(columns), THREADS](H, size, words, squares)
    return words, squares


def _ordered(cosines: np.ndarray, keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Kept pairs (cosine above 0) by falling cosine, then key word, then query word."""
    at_k, at_q = np.nonzero(cosines > 0)
    pairs = np.stack([keys[at_k], queries[at_q]], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0], -cosines[at_k, at_q]))]


@cache
def _read() -> Any:
    @cuda.jit
    def kernel(emb, bos, input_ids, output_ids, x):
        """x: embeddings of bos, the prompt, and the response but its last token."""
        place = cuda.grid(1)
        if place < x.size:
            r, e = place // x.shape[1], place % x.shape[1]
            token = bos
            if r > input_ids.size:
                token = output_ids[r - 1 - input_ids.size]
            elif r > 0:
                token = input_ids[r - 1]
            x[r, e] = emb[token, e]

    return kernel


@cache
def _weights() -> Any:
    @cuda.jit
    def kernel(S, scale, n, A):
        """A block a row: S scaled, 0 in the future; A its softmax over positions 0..n + row."""
        part = cuda.shared.array(THREADS, numba.float64)
        j, thread = cuda.blockIdx.x, cuda.threadIdx.x
        seen = n + j + 1
        top = numba.float64(-math.inf)
        for i in range(thread, S.shape[1], THREADS):
            S[j, i] = S[j, i] * scale if i < seen else 0
            if i < seen:
                top = most(top, numba.float64(S[j, i]))
        part[thread] = top
        cuda.syncthreads()
        for t in range(THREADS):
            top = most(top, part[t])
        cuda.syncthreads()
        total = numba.float64(0)
        for i in range(thread, seen, THREADS):
            total += math.exp(S[j, i] - top)
        part[thread] = total
        cuda.syncthreads()
        total = numba.float64(0)
        for t in range(THREADS):
            total += part[t]
        for i in range(thread, S.shape[1], THREADS):
            A[j, i] = math.exp(S[j, i] - top) / total if i < seen else 0

    return kernel


@cache
def _plus() -> Any:
    @cuda.jit
    def kernel(h, x, n):
        place = cuda.grid(1)
        if place < h.size:
            j, e = place // h.shape[1], place % h.shape[1]
            h[j, e] += x[n + j, e]

    return kernel


@cache
def _softmax() -> Any:
    @cuda.jit
    def kernel(prob, output_ids, confidence):
        """A block a row of logits: its softmax in place, and the response token's share."""
        part = cuda.shared.array(THREADS, numba.float64)
        j, thread = cuda.blockIdx.x, cuda.threadIdx.x
        top = numba.float64(-math.inf)
        for i in range(thread, prob.shape[1], THREADS):
            top = most(top, numba.float64(prob[j, i]))
        part[thread] = top
        cuda.syncthreads()
        for t in range(THREADS):
            top = most(top, part[t])
        cuda.syncthreads()
        total = numba.float64(0)
        for i in range(thread, prob.shape[1], THREADS):
            total += math.exp(prob[j, i] - top)
        part[thread] = total
        cuda.syncthreads()
        total = numba.float64(0)
        for t in range(THREADS):
            total += part[t]
        for i in range(thread, prob.shape[1], THREADS):
            prob[j, i] = math.exp(prob[j, i] - top) / total
        cuda.syncthreads()
        if thread == 0:
            confidence[j] = prob[j, output_ids[j]]

    return kernel


@cache
def _towards() -> Any:
    @cuda.jit
    def kernel(d_h, u, output_ids, confidence):
        """d p_y / d h = p_y (u_y - sum_v p_v u_v), the sum standing in d_h."""
        place = cuda.grid(1)
        if place < d_h.size:
            j, e = place // d_h.shape[1], place % d_h.shape[1]
            d_h[j, e] = confidence[j] * (u[output_ids[j], e] - d_h[j, e])

    return kernel


@cache
def _means() -> Any:
    @cuda.jit
    def kernel(S, A, c, x, d_h, n, means, first):
        """A block a row: sum_s A c; for the first row what reaches its own token besides."""
        part = cuda.shared.array(THREADS, numba.float64)
        j, thread = cuda.blockIdx.x, cuda.threadIdx.x
        total = numba.float64(0)
        for i in range(thread, S.shape[1], THREADS):
            total += A[j, i] * c[j, i]
        part[thread] = total
        cuda.syncthreads()
        mean = numba.float64(0)
        for t in range(THREADS):
            mean += part[t]
        if thread == 0:
            means[j] = mean
        if thread == 0 and j == 0:
            own = numba.float64(0)
            for i in range(S.shape[1]):  # as query
                own += A[0, i] * (c[0, i] - mean) * S[0, i]
            for e in range(x.shape[1]):  # in the residual stream
                own += x[n, e] * d_h[0, e]
            first[0] = own

    return kernel


@cache
def _importance() -> Any:
    @cuda.jit
    def kernel(S, A, c, means, first, importance):
        """(1): as value and as key; the last prompt token, which predicts y_1, also by `first`."""
        place = cuda.grid(1)
        n, T = importance.shape
        if place < n * T:
            i, j = place // T, place % T
            value = A[j, i + 1] * (c[j, i + 1] + (c[j, i + 1] - means[j]) * S[j, i + 1])
            if j == 0 and i == n - 1:
                value += first[0]
            importance[i, j] = value

    return kernel


@cache
def _peaks() -> Any:
    @cuda.jit
    def kernel(importance, peaks):
        """The largest positive importance of each response token: a thread a column."""
        j = cuda.grid(1)
        if j < peaks.size:
            top = importance[0, j] * 0
            for i in range(importance.shape[0]):
                top = most(top, importance[i, j])
            peaks[j] = top

    return kernel


@cache
def _levels() -> Any:
    @cuda.jit
    def kernel(importance, peaks, L, eps, levels):
        """(2) before the cut."""
        place = cuda.grid(1)
        if place < levels.size:
            i, j = place // levels.shape[1], place % levels.shape[1]
            positive = most(importance[i, j], importance[i, j] * 0)
            levels[i, j] = least(type(L)(math.ceil(L * positive / (peaks[j] + eps))), L)

    return kernel


@cache
def _norms() -> Any:
    @cuda.jit
    def kernel(levels, b, p, eps, a):
        """(3) of the levels above b: a block a prompt token."""
        part = cuda.shared.array((2, THREADS), numba.float64)
        i, thread = cuda.blockIdx.x, cuda.threadIdx.x
        total, powers = numba.float64(0), numba.float64(0)
        for j in range(thread, levels.shape[1], THREADS):
            l = numba.float64(levels[i, j])
            if l > b:
                total += l
                powers += l * l * l * l if p == 4.0 else l**p
        part[0, thread], part[1, thread] = total, powers
        cuda.syncthreads()
        if thread == 0:
            for t in range(1, THREADS):
                total += part[0, t]
                powers += part[1, t]
            a[i] = total / (powers ** (1 / p) + eps)

    return kernel


@cache
def _times() -> Any:
    @cuda.jit
    def kernel(x, gamma, out):
        place = cuda.grid(1)
        if place < out.size:
            r, e = place // out.shape[1], place % out.shape[1]
            out[r, e] = x[r, e] * gamma[e]

    return kernel


@cache
def _unit_rows() -> Any:
    @cuda.jit
    def kernel(x, out):
        """Rows of length 1; rows of zeros stay."""
        r = cuda.grid(1)
        if r < x.shape[0]:
            total = x[r, 0] * 0
            for e in range(x.shape[1]):
                total += x[r, e] * x[r, e]
            length = math.sqrt(total) if total > 0 else total + 1
            for e in range(x.shape[1]):
                out[r, e] = x[r, e] / length

    return kernel


@cache
def _columns() -> Any:
    @cuda.jit
    def kernel(H, size, words, squares):
        """A thread a column keeps the k largest so far in order; equal ones by their number."""
        c = cuda.grid(1)
        if c >= H.shape[1]:
            return
        k = words.shape[0]
        total = H[0, c] * 0
        for w in range(H.shape[0]):
            total += H[w, c] * H[w, c]
            value = abs(H[w, c])
            place = w if w < k else k
            if place == k and value > size[k - 1, c]:
                place = k - 1
            if place < k:
                while place > 0 and value > size[place - 1, c]:
                    size[place, c], words[place, c] = size[place - 1, c], words[place - 1, c]
                    place -= 1
                size[place, c], words[place, c] = value, w
        squares[c] = total

    return kernel


@cache
def _theta() -> Any:
    @cuda.jit
    def kernel(g, first, theta):
        """Mean + 1.96 standard deviations of a word's cosines with the first words: a block a word."""
        part = cuda.shared.array(THREADS, numba.float64)
        w, thread = cuda.blockIdx.x, cuda.threadIdx.x
        mean, spread = numba.float64(0), numba.float64(0)
        for turn in range(2):
            total = numba.float64(0)
            for v in range(thread, first, THREADS):
                cosine = numba.float64(0)
                for e in range(g.shape[1]):
                    cosine += g[w, e] * g[v, e]
                total += cosine if turn == 0 else (cosine - mean) ** 2
            part[thread] = total
            cuda.syncthreads()
            total = numba.float64(0)
            for t in range(THREADS):
                total += part[t]
            cuda.syncthreads()
            if turn == 0:
                mean = total / first
            else:
                spread = math.sqrt(total / first)
        if thread == 0:
            theta[w] = mean + 1.96 * spread

    return kernel


@cache
def _cosines() -> Any:
    @cuda.jit
    def kernel(Hq, Hk, queries, keys, g, theta, h, group, kept):
        """kept[r, i, j]: the cosine of key word i and query word j of dimension r, 0 if not kept."""
        place = cuda.grid(1)
        if place >= kept.size:
            return
        j = place % kept.shape[2]
        i = place // kept.shape[2] % kept.shape[1]
        r = place // (kept.shape[1] * kept.shape[2])
        t = r // h // group * h + r % h
        key, query = keys[i, t], queries[j, r]
        result = theta[0] * 0
        if key != query and Hk[key, t] * Hq[query, r] > 0:
            low, high = least(key, query), most(key, query)  # (a, b) and (b, a) tie exactly
            cosine = theta[0] * 0
            for e in range(g.shape[1]):
                cosine += g[low, e] * g[high, e]
            if cosine > theta[key] and cosine > theta[query] and cosine > 0:
                result = cosine
        kept[r, i, j] = result

    return kernel
