"""Instruction shift in NumPy (Wu et al. 2023): attribution, density, word patterns, spans."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from . import EXHIBIT

FIRST_WORDS = 3000  # of the vocabulary, that theta of (7) averages over


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
) -> dict[str, Any]:
    """How much each prompt token moves the probability of each response token, and how steadily.

    The model has one layer, one head and no positions; importances (n, T) and densities (n,) have
    no unit. One backward pass for each response token, written out by hand.

    Raises InputError: empty prompt or response, ids outside 0..V-1, b >= L, p < 1, NaN.

    Source: arXiv 2310.00492; Interpret_Instruction_Tuning_LLMs, src/generator.py, src/utils.py.
    """
    n, T, d = len(input_ids), len(output_ids), emb.shape[1]
    x = emb[np.concatenate([[bos_id], input_ids, output_ids])]  # (1 + n + T, d)
    q, k, v = x @ wq.T, x @ wk.T, x @ wv.T @ wo.T
    importance = np.zeros((n, T), emb.dtype)
    confidence = np.zeros(T, emb.dtype)
    for j, y in enumerate(output_ids):
        r = n + j  # the position that predicts y
        s = k[: r + 1] @ q[r] / d**0.5  # causal: positions 0..r
        A = softmax(s)
        prob = softmax(u @ (x[r] + A @ v[: r + 1]))  # (V,)
        confidence[j] = prob[y]

        d_h = prob[y] * (u[y] - prob @ u)  # d p_y / d logits = p_y (1_y - p)
        d_A = v[: r + 1] @ d_h
        d_s = A * (d_A - A @ d_A) / d**0.5
        d_x = np.outer(A, d_h @ wo @ wv) + np.outer(d_s, q[r] @ wk)  # as value, as key
        d_x[r] += d_h + d_s @ k[: r + 1] @ wq  # in the residual stream, as query
        importance[:, j] = (d_x[1 : n + 1] * x[1 : n + 1]).sum(axis=1)  # (1)

    a = densities(quantise(importance, L, eps_analysis), b, p, eps_analysis)
    a = a / (a.max() + 1e-9)  # (4)
    score = a[instruction_mask].sum() / np.log2(2 + instruction_mask.sum())  # (5)
    levels = quantise(importance, L, eps)
    return {
        "importance": importance,
        "confidence": confidence,
        "levels_0_10": levels,
        "density_raw": densities(levels, b, p, eps),
        "density_normalised": a,
        "instruction_score": np.asarray(score, emb.dtype),
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
    """(2)-(4): normalised densities (n,), from 0 to 1, by threshold b.

    A token that matters equally for m response tokens has raw density m^(1 - 1/p), for one token 1.

    Raises InputError: nothing to look at, b >= L, p < 1, NaN.

    Source: arXiv 2310.00492; Interpret_Instruction_Tuning_LLMs, src/utils.py:compute_density.
    """
    given = detect_levels and importance.max() == L and importance.min() == 0
    own = importance if given else quantise(importance, L, eps)

    def normalised(levels: np.ndarray, b: int) -> np.ndarray:
        a = densities(levels, b, p, eps)
        return a / (a.max() + 1e-9)  # (4)

    made: dict[str, Any] = {"density_b": {b: normalised(own, b) for b in thresholds}}
    if levels is not None:
        made["density_prequantised_b"] = {prequantised_b: normalised(levels, prequantised_b)}
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
    """Word pairs (key, query) of every dimension of every query head; words of the feed-forward layer.

    `head` is a list with dim_order (h,), activation (h,) and pairs_k_q (h, P, 2) of each head, P the
    most pairs of any dimension. Words are indices of 0..V-1.

    Raises InputError: key heads that do not divide the query heads, NaN.

    Source: arXiv 2310.00492; Interpret_Instruction_Tuning_LLMs, src/generator.py:att_explain,
    ffn_explain.
    """
    h = len(q_proj) // n_q_heads
    Hq = (word_embed_in * input_norm) @ q_proj.T  # (V, H h)
    Hk = (word_embed_in * input_norm) @ k_proj.T  # (V, H_kv h)
    g = unit_rows(static_embed)
    theta = thresholds_of(g)
    heads = []
    for i in range(n_q_heads):
        kv = i // (n_q_heads // n_kv_heads)
        hq, hk = Hq[:, i * h : (i + 1) * h], Hk[:, kv * h : (kv + 1) * h]
        N = (hq**2).sum(axis=0) + (hk**2).sum(axis=0)  # (6)
        order = falling(N)
        rows = [pairs_of(hk[:, r], hq[:, r], g, theta, top_k) for r in order]
        pairs = np.full((h, max(len(row) for row in rows), 2), -1)
        for place, row in enumerate(rows):
            pairs[place, : len(row)] = row
        heads.append({"dim_order": order, "activation": N[order], "pairs_k_q": pairs})

    W = down_proj.T - down_proj.T.mean(axis=0)  # (c) (m, d)
    _, S, V_t = np.linalg.svd(W, full_matrices=False)
    match = abs(V_t[:ffn_rank] @ unit_rows(word_embed_out).T)  # (rank, V)
    words = np.array([falling(row)[:ffn_top_k] for row in match])
    share = S**2 / (S**2).sum()
    return {"head": heads, "ffn_top_words": words, "ffn_variance_share": share[:ffn_rank]}


@EXHIBIT.path
def locate_spans(
    text: Int[np.ndarray, "n"], patterns: Int[np.ndarray, "m w"], *, must_find: bool = False
) -> dict[str, Any]:
    """First position of each pattern in the text, -1 where it is absent; an empty one is at 0.

    Raises InputError: a token after padding; with must_find, a pattern that is absent.

    Source: Knuth, Morris, Pratt 1977; Interpret_Instruction_Tuning_LLMs, src/utils.py:KMPSearch.
    """
    found = [first_occurrence(text.tolist(), row[row >= 0].tolist()) for row in patterns]
    return {"position": np.array(found)}


def softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s - s.max())
    return e / e.sum()


def quantise(importance: np.ndarray, L: int, eps: float) -> np.ndarray:
    """(2) before the cut: the largest of each column is at L, what is not positive at 0."""
    positive = np.maximum(importance, 0)
    return np.minimum(np.ceil(L * positive / (positive.max(axis=0) + eps)), L)


def densities(levels: np.ndarray, b: int, p: float, eps: float) -> np.ndarray:
    """The cut at b, and (3)."""
    l = np.where(levels <= b, 0, levels)
    return l.sum(axis=1) / ((l**p).sum(axis=1) ** (1 / p) + eps)


def falling(values: np.ndarray) -> np.ndarray:
    """Indices by falling value, the lower index first among equals."""
    return np.argsort(-values, kind="stable")


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def thresholds_of(g: np.ndarray) -> np.ndarray:
    """theta of (7), (V,)."""
    cosines = g @ g[:FIRST_WORDS].T
    return cosines.mean(axis=1) + 1.96 * cosines.std(axis=1)


def pairs_of(
    hk: np.ndarray, hq: np.ndarray, g: np.ndarray, theta: np.ndarray, top_k: int
) -> np.ndarray:
    """(7) of one dimension: rows (key word, query word)."""
    keys, queries = (np.sort(falling(abs(h))[:top_k]) for h in (hk, hq))
    both = np.union1d(keys, queries)
    cosines = g[both] @ g[both].T
    cosines = np.maximum(cosines, cosines.T)  # (a, b) and (b, a) are to tie exactly
    c = cosines[np.ix_(np.searchsorted(both, keys), np.searchsorted(both, queries))]
    kept = (c > theta[keys][:, None]) & (c > theta[queries]) & (c > 0)
    kept &= (np.outer(hk[keys], hq[queries]) > 0) & (keys[:, None] != queries)
    at_k, at_q = np.nonzero(kept)  # by key word, then query word
    order = falling(c[at_k, at_q])
    return np.stack([keys[at_k], queries[at_q]], axis=1)[order]


def first_occurrence(text: list[int], pattern: list[int]) -> int:
    """Knuth, Morris and Pratt: never step back in the text."""
    if not pattern:
        return 0
    back = [0] * len(pattern)  # back[i]: the longest prefix that ends the first i + 1 tokens
    matched = 0
    for i in range(1, len(pattern)):
        while matched and pattern[i] != pattern[matched]:
            matched = back[matched - 1]
        matched += pattern[i] == pattern[matched]
        back[i] = matched
    matched = 0
    for i, token in enumerate(text):
        while matched and token != pattern[matched]:
            matched = back[matched - 1]
        matched += token == pattern[matched]
        if matched == len(pattern):
            return i + 1 - len(pattern)
    return -1
