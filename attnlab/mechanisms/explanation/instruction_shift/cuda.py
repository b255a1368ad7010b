"""Instruction shift on CUDA: products of matrices, a block a row for softmax and norms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.matmul import linear, matmul

from . import EXHIBIT
from . import cuda_kernels as kernels

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
    kernels.read()[device.blocks(x.size), THREADS](emb, bos_id, input_ids, output_ids, x)
    q, k, v = linear(x[n:], wq), linear(x, wk), linear(linear(x, wv), wo)
    S = matmul(_one(q), _one(k), transposed=True)[0]  # (T, n + T)
    A = device.empty(S.shape, dtype)
    kernels.weights()[T, THREADS](S, dtype.type(d**-0.5), n, A)
    h = matmul(_one(A), _one(v))[0]
    kernels.plus()[device.blocks(h.size), THREADS](h, x, n)
    prob = linear(h, u)  # (T, V)
    confidence = device.empty(T, dtype)
    kernels.softmax()[T, THREADS](prob, output_ids, confidence)
    d_h = matmul(_one(prob), _one(u))[0]  # sum_v p_v u_v
    kernels.towards()[device.blocks(d_h.size), THREADS](d_h, u, output_ids, confidence)
    c = matmul(_one(d_h), _one(v), transposed=True)[0]
    means, first = device.empty(T, dtype), device.empty(1, dtype)
    kernels.means()[T, THREADS](S, A, c, x, d_h, n, means, first)
    importance = device.empty((n, T), dtype)
    kernels.importance()[device.blocks(n * T), THREADS](S, A, c, means, first, importance)

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
    kernels.times()[device.blocks(E.size), THREADS](word_embed_in, input_norm, E)
    Hq, Hk = (
        linear(E, q_proj),
        linear(E, k_proj),
    )  # (V, H h), (V, H_kv h): threads run along columns
    queries, squares_q = _strongest(Hq, min(top_k, V))
    keys, squares_k = _strongest(Hk, min(top_k, V))
    g = _unit(static_embed)
    theta = device.empty(V, dtype)
    kernels.theta()[V, THREADS](g, min(V, FIRST_WORDS), theta)
    kept = device.empty((H * h, keys.shape[0], queries.shape[0]), dtype)
    kernels.cosines()[device.blocks(kept.size), THREADS](
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
    kernels.peaks()[device.blocks(peaks.size), THREADS](importance, peaks)
    return peaks


def _densities(values: Any, peaks: Any, L: int, eps: float, b: int, p: float) -> tuple[Any, Any]:
    """(levels, (3)); without peaks the values are levels."""
    dtype = np.dtype(values.dtype)
    levels = values
    if peaks is not None:
        levels = device.empty(values.shape, dtype)
        grid = device.blocks(values.size)
        kernels.levels()[grid, THREADS](values, peaks, dtype.type(L), dtype.type(eps), levels)
    a = device.empty(values.shape[0], dtype)
    kernels.norms()[values.shape[0], THREADS](levels, float(b), p, eps, a)
    return levels, a


def _normalised(a: Any) -> Any:
    host = a.copy_to_host()
    return cuda.to_device(host / (host.max() + host.dtype.type(1e-9)))


def _unit(x: Any) -> Any:
    out = device.empty(x.shape, x.dtype)
    kernels.unit_rows()[device.blocks(x.shape[0]), THREADS](x, out)
    return out


def _strongest(H: Any, k: int) -> tuple[Any, Any]:
    """words (k, columns) of largest |H| and the sum of squares of each column of H (V, columns)."""
    columns = H.shape[1]
    words, size = device.empty((k, columns), np.int64), device.empty((k, columns), H.dtype)
    squares = device.empty(columns, H.dtype)
    kernels.columns()[device.blocks(columns), THREADS](H, size, words, squares)
    return words, squares


def _ordered(cosines: np.ndarray, keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Kept pairs (cosine above 0) by falling cosine, then key word, then query word."""
    at_k, at_q = np.nonzero(cosines > 0)
    pairs = np.stack([keys[at_k], queries[at_q]], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0], -cosines[at_k, at_q]))]
