"""SEAL in NumPy (Bevilacqua et al. 2022): the index by definition, scoring step by step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from . import EOS, EXHIBIT
from .odds import Ngram, distinct, join, lists, ngram_weights, unigram_weights


def stored_text(doc_tokens: np.ndarray, doc_offsets: np.ndarray, shift: int) -> np.ndarray:
    """(1): every document reversed, + shift, then the terminal 0."""
    docs = [doc_tokens[a:b][::-1] + shift for a, b in pairwise(doc_offsets)]
    return np.concatenate([*docs, [0]])


def suffix_order(S: np.ndarray) -> np.ndarray:
    """Starts of the suffixes in order, by prefix doubling: ranks by 1, 2, 4, … symbols."""
    rank, length = np.unique(S, return_inverse=True)[1], 1
    while True:
        second = np.append(rank[length:], np.full(min(length, len(S)), -1))
        order = np.lexsort((second, rank))
        rises = (np.diff(rank[order]) != 0) | (np.diff(second[order]) != 0)
        rank = np.empty_like(rank)
        rank[order] = np.append(0, np.cumsum(rises))
        if rises.all():
            return order
        length *= 2


def wavelet_matrix(bwt: np.ndarray, sigma: int) -> dict[str, np.ndarray]:
    """One bit of every symbol a level, zeros before ones in the next; 64 bits a word."""
    levels, words = max(1, (sigma - 1).bit_length()), len(bwt) // 64 + 1
    rows = np.zeros((levels, words * 64), bool)
    zeros, sequence = [], bwt
    for level in range(levels):
        bits = (sequence >> (levels - 1 - level)) & 1 == 1
        rows[level, : len(bits)] = bits
        zeros.append((~bits).sum())
        sequence = np.concatenate([sequence[~bits], sequence[bits]])
    packed = np.packbits(rows, axis=1, bitorder="little").view("<i8")
    ones = rows.reshape(levels, words, 64).sum(axis=2)
    return {
        "rank_words": packed.astype(np.int64),
        "rank_before": np.cumsum(ones, axis=1) - ones,
        "rank_zeros": np.array(zeros),
    }


@EXHIBIT.path
def build_index(
    doc_tokens: Int[np.ndarray, "N"],
    doc_offsets: Int[np.ndarray, "documents+1"],
    *,
    shift: int = 10,
) -> dict[str, np.ndarray]:
    """The FM-index of the reversed documents: what count_ngrams takes. Equation (1).

    Raises InputError for a document without eos or body, and for negative token ids.
    """
    S = stored_text(doc_tokens, doc_offsets, shift)
    order = suffix_order(S)
    bwt = S[order - 1]  # S[-1], the terminal, stands before S[0]
    C = np.append(0, np.cumsum(np.bincount(S)))
    return {"suffix_array": order, "bwt": bwt, "C": C} | wavelet_matrix(bwt, len(C) - 1)


@EXHIBIT.path
def count_ngrams(
    bwt: Int[np.ndarray, "N+1"],
    C: Int[np.ndarray, "sigma+1"],
    ngram_tokens: Int[np.ndarray, "tokens"],
    ngram_offsets: Int[np.ndarray, "ngrams+1"],
    rank_words: Int[np.ndarray, "levels words"] | None = None,
    rank_before: Int[np.ndarray, "levels words"] | None = None,
    rank_zeros: Int[np.ndarray, "levels"] | None = None,
    *,
    shift: int = 10,
) -> dict[str, np.ndarray]:
    """Rows and number of occurrences of each n-gram, by backward search (2).

    ranges (ngrams, 2) are half-open, (1, 1) where an n-gram does not occur; the empty n-gram
    occurs everywhere. The rank structure makes the other paths fast and is not read here.
    """
    ranges = [fm_index_search(bwt, C, g, shift) for g in lists(ngram_tokens, ngram_offsets)]
    found = np.array(ranges, np.int64).reshape(-1, 2)
    return {"ranges": found, "counts": found[:, 1] - found[:, 0]}


def fm_index_search(
    bwt: Int[np.ndarray, "N+1"], C: Int[np.ndarray, "sigma+1"], g: Sequence[int], shift: int
) -> tuple[int, int]:
    """(2): rows l <= row < r of the n-gram g in the sorted suffixes; (1, 1) where it is absent."""
    l, r = 0, len(bwt)
    for t in g:  # reading order: the text is stored reversed
        c = t + shift
        if c >= len(C) - 1:
            return 1, 1
        l, r = (C[c] + np.count_nonzero(bwt[:i] == c) for i in (l, r))
    return (l, r) if r > l else (1, 1)


@EXHIBIT.path
def query_index(
    doc_tokens: Int[np.ndarray, "N"],
    doc_offsets: Int[np.ndarray, "documents+1"],
    ngram_tokens: Int[np.ndarray, "tokens"],
    ngram_offsets: Int[np.ndarray, "ngrams+1"],
    *,
    shift: int = 10,
) -> dict[str, np.ndarray]:
    """Rows, counts, documents and continuations (3) of each n-gram; ragged lists by offsets."""
    index = build_index(doc_tokens, doc_offsets, shift=shift)
    order, bwt = index.suffix_array, index.bwt
    found = count_ngrams(bwt, index.C, ngram_tokens, ngram_offsets, shift=shift)
    docs, pairs = [], []
    for l, r in found.ranges:
        rows = order[l:r]
        docs.append(
            np.sort(np.searchsorted(doc_offsets, rows[rows < len(doc_tokens)], "right") - 1)
        )
        symbols, counts = np.unique(bwt[l:r][bwt[l:r] > 0], return_counts=True)
        pairs.append(np.stack([symbols - shift, counts], axis=1).ravel())
    symbols, counts = np.unique(bwt[:-1][bwt[:-1] > 0], return_counts=True)
    return {
        "suffix_array": order,
        "bwt": bwt,
        "ranges": found.ranges,
        "counts": found.counts,
        **ragged("docs", docs),
        "cont_pairs": np.concatenate([*pairs, np.zeros(0, np.int64)]),
        "cont_offsets": np.cumsum([0, *map(len, pairs)]),
        "occurring_distinct": symbols - shift,
        "occurring_counts": counts,
        "doc0": doc_tokens[: doc_offsets[1]].copy(),
    }


@EXHIBIT.path
def mask_scores(
    doc_tokens: Int[np.ndarray, "N"],
    doc_offsets: Int[np.ndarray, "documents+1"],
    input_ids: Int[np.ndarray, "Q t"],
    scores: Float[np.ndarray, "Q V"],
    *,
    pad: int = 1,
    eos: int = 2,
) -> dict[str, np.ndarray]:
    """(4): -inf on what cannot follow; first_step for the start token alone, masked for input_ids."""
    V = scores.shape[1]
    S = stored_text(doc_tokens, doc_offsets, 1)  # + 1 keeps the terminal apart

    def row(y: Ngram) -> np.ndarray:
        if not y:
            allowed = doc_tokens
        elif y[-1] in (eos, pad):
            allowed = np.array([pad])
        else:
            before = S[stored_positions(S, y) - 1] - 1
            allowed = before[before >= 0]
        permitted = np.zeros(V, bool)
        permitted[allowed[allowed < V]] = True
        return permitted

    rows = np.array([row(tuple(y[1:])) for y in input_ids.tolist()])
    return {
        "first_step": np.where(row(()), scores, -np.inf),
        "masked": np.where(rows, scores, -np.inf),
    }


@EXHIBIT.path
def score_documents(
    doc_tokens: Int[np.ndarray, "N"],
    doc_offsets: Int[np.ndarray, "documents+1"],
    ngram_tokens: Int[np.ndarray, "tokens"],
    ngram_offsets: Int[np.ndarray, "ngrams+1"],
    logprob: Float[np.ndarray, "ngrams"],
    unigram_logprob: Float[np.ndarray, "V"] | None = None,
    *,
    alpha: float = 2.0,
    beta: float = 0.8,
    smoothing: float = 5.0,
    max_occurrences_1: int = 1500,
    n_docs_complete_score: int = 1500,
    allow_overlaps: bool = False,
    add_best_unigrams_to_ngrams: bool = False,
    use_top_k_unigrams: int = 5000,
) -> dict[str, np.ndarray]:
    """Documents ranked by their n-grams, (5)-(9); kept lists follow doc_order.

    Raises InputError for log-probabilities above 0, beta outside [0, 1], smoothing <= 0.
    """
    N, dtype = len(doc_tokens), logprob.dtype
    S = stored_text(doc_tokens, doc_offsets, 1)
    given = distinct(lists(ngram_tokens, ngram_offsets), logprob)
    counts = np.array([len(stored_positions(S, g)) for g in given], np.int64)
    w = ngram_weights(np.array(list(given.values()), "f8"), counts, N, smoothing, alpha)
    weights = dict(zip(given, w.tolist()))
    u = np.zeros(0)
    if unigram_logprob is not None:
        V = len(unigram_logprob)
        occurring = np.bincount(doc_tokens[doc_tokens < V], minlength=V)
        u = unigram_weights(
            unigram_logprob.astype("f8"), occurring, N, smoothing, use_top_k_unigrams, list(given)
        )
    weights = join(weights, u, len(given) if add_best_unigrams_to_ngrams else 0)

    # (7): stored position p lies in the document whose n-gram ends there
    first_stage, candidates = np.zeros(len(doc_offsets) - 1), set()
    for g in sorted(weights):
        p = stored_positions(S, g)
        docs = np.unique(np.searchsorted(doc_offsets, p, "right") - 1)
        first_stage[docs] += weights[g]
        if len(p) <= max_occurrences_1:
            candidates |= set(docs.tolist())
    best = sorted(candidates, key=lambda d: (-first_stage[d], d))[:n_docs_complete_score]

    results = []
    for d in best:
        x = np.append(EOS, doc_tokens[doc_offsets[d] : doc_offsets[d + 1] - 1])
        total, kept, scores = score_document(x, weights, u, beta, allow_overlaps)
        results.append((-total, d, kept, scores))
    results.sort(key=lambda row: row[:2])
    return {
        "doc_order": np.array([d for _, d, _, _ in results], np.int64),
        "doc_score": np.array([-s for s, _, _, _ in results], dtype),
        **ragged("all_ngram", list(weights), "all_ngram_tokens"),
        "all_ngram_score": np.array(list(weights.values()), dtype),
        **ragged("kept", [[n for g in kept for n in (len(g), *g)] for _, _, kept, _ in results]),
        "kept_score": np.array([s for *_, scores in results for s in scores], dtype),
    }


def score_document(x, weights, u, beta, allow_overlaps):  # type: ignore[no-untyped-def]
    """(8), (9): the score of one document's tokens x, the n-grams it keeps and their shares."""
    free = np.ones(len(x), bool)
    C: set[int] = set()  # covered words

    def cover(words: set[int]) -> float:
        return 1 - beta + beta * len(words - C) / len(words) if C else 1.0

    kept: dict[Ngram, float] = {}
    for g, w in weights.items():  # w falling, n-grams ascending
        for start in positions(x, np.array(g)):
            score = kept[g] if g in kept else w * cover(set(g))
            if score <= 0 or not (allow_overlaps or free[start : start + len(g)].all()):
                continue
            free[start : start + len(g)] = False
            kept[g] = score
            C |= set(g)
    grams, scores = list(kept), list(kept.values())
    for t in dict.fromkeys(x[free].tolist()):  # distinct, in order of first free position
        if t < len(u) and (score := u[t] * cover({t})) > 0:
            grams.append((t,))
            scores.append(score)
    total = 0.0
    for score in scores:
        total += score
    return total, grams, scores


def positions(text: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Where g begins in a text."""
    if len(g) > len(text):
        return np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(text, len(g))
    return np.flatnonzero((windows == g).all(axis=1))


def stored_positions(S: np.ndarray, g: Ngram) -> np.ndarray:
    """Where g, reversed, begins in the stored text of shift 1: the place of its last token."""
    return positions(S, np.array(g)[::-1] + 1)


def ragged(name: str, rows: list, tokens: str = "") -> dict[str, np.ndarray]:
    """The (values, offsets) pair of a list of lists."""
    flat = [np.asarray(row, np.int64) for row in rows]
    return {
        tokens or name: np.concatenate([*flat, np.zeros(0, np.int64)]),
        f"{name}_offsets": np.cumsum([0, *map(len, flat)]),
    }
