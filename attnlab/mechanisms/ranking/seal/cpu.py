"""SEAL on the CPU: rank queries on a wavelet matrix; scoring by one scan of the stored text."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.runtime import block, fetch_add, run_workers, worker
from attnlab.kernels.cpu.suffix_array import RankIndex, search, suffix_array
from attnlab.kernels.cpu.suffix_array import bwt as transform

from . import EOS, EXHIBIT
from .odds import distinct, join, lists, ngram_weights, unigram_weights


@EXHIBIT.path
def build_index(
    doc_tokens: Int[np.ndarray, "N"],
    doc_offsets: Int[np.ndarray, "documents+1"],
    *,
    shift: int = 10,
) -> dict[str, np.ndarray]:
    """See the reference."""
    S = stored_text(doc_tokens, doc_offsets, shift)
    order = suffix_array(S)
    made = transform(S, order)
    C = np.append(0, np.cumsum(np.bincount(S)))
    index = RankIndex.of(made, len(C) - 1)
    return {
        "suffix_array": order,
        "bwt": made,
        "C": C,
        "rank_words": index.words.view(np.int64),
        "rank_before": index.before,
        "rank_zeros": index.zeros,
    }


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
    """See the reference. Without the rank structure of build_index, it is built here."""
    if rank_words is None or rank_before is None or rank_zeros is None:
        index = RankIndex.of(bwt, len(C) - 1)
    else:
        index = RankIndex(rank_words.view(np.uint64), rank_before, rank_zeros)
    ranges = scratch.empty((len(ngram_offsets) - 1, 2), np.int64)
    run_workers(
        search_all, index, C, ngram_tokens, ngram_offsets, shift, ranges, np.zeros(1, np.int64),
        workers=None if len(ngram_tokens) > 4096 else 1,
    )  # fmt: skip
    return {"ranges": ranges, "counts": ranges[:, 1] - ranges[:, 0]}


@EXHIBIT.path
def query_index(
    doc_tokens: Int[np.ndarray, "N"],
    doc_offsets: Int[np.ndarray, "documents+1"],
    ngram_tokens: Int[np.ndarray, "tokens"],
    ngram_offsets: Int[np.ndarray, "ngrams+1"],
    *,
    shift: int = 10,
) -> dict[str, np.ndarray]:
    """See the reference."""
    N = len(doc_tokens)
    index = build_index(doc_tokens, doc_offsets, shift=shift)
    order, bwt = index.suffix_array, index.bwt
    found = count_ngrams(
        bwt, index.C, ngram_tokens, ngram_offsets,
        index.rank_words, index.rank_before, index.rank_zeros, shift=shift,
    )  # fmt: skip
    # The rows of all n-grams one after another, each with its n-gram's number.
    G, D, sigma = len(found.counts), len(doc_offsets) - 1, len(index.C) - 1
    gram = np.repeat(np.arange(G), found.counts)
    before = np.cumsum(found.counts) - found.counts
    rows = np.arange(len(gram)) + np.repeat(found.ranges[:, 0] - before, found.counts)
    document = np.append(np.repeat(np.arange(D), np.diff(doc_offsets)), D)  # D: the terminal
    held = np.sort(gram * (D + 1) + document[order[rows]])
    held = held[held % (D + 1) < D]
    pairs, times = np.unique(gram * sigma + bwt[rows], return_counts=True)
    follows = pairs % sigma > 0
    pairs, times = pairs[follows], times[follows]
    counts = np.diff(index.C)
    counts[bwt[N]] -= 1  # the last row is left out, as in the authors' code
    counts[0] = 0
    occurring = np.flatnonzero(counts)
    return {
        "suffix_array": order,
        "bwt": bwt,
        "ranges": found.ranges,
        "counts": found.counts,
        "docs": held % (D + 1),
        "docs_offsets": np.searchsorted(held, np.arange(G + 1) * (D + 1)),
        "cont_pairs": np.stack([pairs % sigma - shift, times], axis=1).ravel(),
        "cont_offsets": 2 * np.searchsorted(pairs, np.arange(G + 1) * sigma),
        "occurring_distinct": occurring - shift,
        "occurring_counts": counts[occurring],
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
    """See the reference. One scan of the text a prefix, without an index."""
    Q, V = scores.shape
    S = stored_text(doc_tokens, doc_offsets, 1)
    allowed = np.zeros((Q + 1, V), bool)
    allowed[Q, doc_tokens[doc_tokens < V]] = True
    run_workers(
        allow, S, input_ids, pad, eos, allowed, np.zeros(1, np.int64),
        workers=None if Q * len(S) > 2**19 else 1,
    )  # fmt: skip
    hidden = scores.dtype.type(-np.inf)
    return {
        "first_step": np.where(allowed[Q], scores, hidden),
        "masked": np.where(allowed[:Q], scores, hidden),
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
    """See the reference. n-grams are found by their last token in one scan of the stored text."""
    N, dtype = len(doc_tokens), logprob.dtype
    S = stored_text(doc_tokens, doc_offsets, 0)
    tokens = int(doc_tokens.max()) + 1
    given = distinct(lists(ngram_tokens, ngram_offsets), logprob)
    counts, _ = _scan(S, doc_offsets, list(given), tokens, np.zeros(len(given)), 0)
    w = ngram_weights(np.array(list(given.values()), "f8"), counts, N, smoothing, alpha)
    u = np.zeros(0)
    if unigram_logprob is not None:
        V = len(unigram_logprob)
        occurring = np.bincount(doc_tokens, minlength=V)[:V]
        u = unigram_weights(
            unigram_logprob.astype("f8"), occurring, N, smoothing, use_top_k_unigrams, list(given)
        )
    weights = join(
        dict(zip(given, w.tolist())), u, len(given) if add_best_unigrams_to_ngrams else 0
    )

    grams = sorted(weights)  # first-stage sums run in this order
    ordered = np.array([weights[g] for g in grams])
    _, first_stage = _scan(S, doc_offsets, grams, tokens, ordered, max_occurrences_1)
    candidates = np.flatnonzero(first_stage[:, 1] > 0)
    ranked = np.argsort(-first_stage[candidates, 0], kind="stable")
    best = candidates[ranked[:n_docs_complete_score]]

    grams = list(weights)  # by falling weight, as (8) goes through them
    flat, offsets = _ragged(grams)
    room = int((doc_offsets[best + 1] - doc_offsets[best]).sum()) + len(best) * len(grams)
    kept = scratch.empty((room, 2), np.int64)
    shares = scratch.empty(room, np.float64)
    ends, totals = np.zeros(len(best) + 1, np.int64), np.zeros(len(best))
    score_all(
        doc_tokens, doc_offsets, best, flat, offsets, *_buckets(flat[offsets[:-1]], tokens),
        np.array(list(weights.values())), u, beta, allow_overlaps, kept, shares, ends, totals,
    )  # fmt: skip

    order = np.lexsort((best, -totals))
    rows, score = [], []
    for i in order:
        row: list[int] = []
        for kind, value in kept[ends[i] : ends[i + 1]].tolist():
            row += [len(grams[value]), *grams[value]] if kind == 0 else [1, value]
        rows.append(row)
        score.append(shares[ends[i] : ends[i + 1]])
    kept_flat, kept_offsets = _ragged(rows)
    return {
        "doc_order": best[order],
        "doc_score": totals[order].astype(dtype),
        "all_ngram_tokens": flat,
        "all_ngram_offsets": offsets,
        "all_ngram_score": np.array(list(weights.values()), dtype),
        "kept": kept_flat,
        "kept_offsets": kept_offsets,
        "kept_score": np.concatenate([*score, np.zeros(0)]).astype(dtype),
    }


def stored_text(doc_tokens: np.ndarray, doc_offsets: np.ndarray, shift: int) -> np.ndarray:
    """(1); with shift 0 the terminal is -1."""
    S = np.full(len(doc_tokens) + 1, 0 if shift else -1)
    lengths = np.diff(doc_offsets)
    # position i of a document [a, b) is written at a + b - 1 - i
    ends = np.repeat(doc_offsets[:-1] + doc_offsets[1:] - 1, lengths)
    S[ends - np.arange(len(doc_tokens))] = doc_tokens + shift
    return S


def _ragged(rows: list) -> tuple[np.ndarray, np.ndarray]:
    flat = np.array([t for row in rows for t in row], np.int64)
    return flat, np.cumsum([0, *map(len, rows)])


def _buckets(keys: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, starts): the n-grams of key t are order[starts[t]:starts[t + 1]], ascending."""
    known = np.flatnonzero(keys < tokens)
    order = known[np.argsort(keys[known], kind="stable")]
    return order, np.searchsorted(keys[order], np.arange(tokens + 1))


def _scan(S, doc_offsets, grams, tokens, weights, most):  # type: ignore[no-untyped-def]
    """Occurrences of each n-gram in the stored text; for each document the summed weight of the
    n-grams it holds, and 1 if one of them occurs at most `most` times."""
    flat, offsets = _ragged([g[::-1] for g in grams])
    order, starts = _buckets(flat[offsets[:-1]], tokens)
    counts = np.zeros(len(grams), np.int64)
    stage = np.zeros((len(doc_offsets) - 1, 2))
    scan(S, doc_offsets, flat, offsets, order, starts, weights, most, counts, stage)
    return counts, stage


@worker
def search_all(index, C, tokens, offsets, shift, ranges, counter):
    """ranges (ngrams, 2) <- rows of each n-gram, 16 at a time."""
    while True:
        first = fetch_add(counter, 16)
        if first >= ranges.shape[0]:
            break
        for g in range(first, min(first + 16, ranges.shape[0])):
            l, r = 0, C[C.size - 1]
            for i in range(offsets[g], offsets[g + 1]):
                l, r = search(index, C, tokens[i] + shift, l, r)
                if l >= r:
                    l, r = 1, 1
                    break
            ranges[g, 0], ranges[g, 1] = l, r


@worker
def allow(S, input_ids, pad, eos, allowed, counter):
    """allowed[q] <- what may follow prefix q; S holds tokens + 1, reversed; the last row is all."""
    V, t = allowed.shape[1], input_ids.shape[1]
    while True:
        q = fetch_add(counter, 1)
        if q >= input_ids.shape[0]:
            break
        y = input_ids[q]
        if t == 1:
            allowed[q] = allowed[allowed.shape[0] - 1]
        elif y[t - 1] == eos or y[t - 1] == pad:
            if pad < V:
                allowed[q, pad] = True
        else:
            last = y[t - 1] + 1
            for p in range(1, S.size - t + 1):  # nothing stands before position 0
                if S[p] != last:
                    continue
                same = True
                for i in range(1, t - 1):
                    same = same and S[p + i] == y[t - 1 - i] + 1
                if same and S[p - 1] - 1 < V:
                    allowed[q, S[p - 1] - 1] = True


@block
def begins_at(text, p, flat, start, stop):
    """Whether text[p:] begins with flat[start:stop]."""
    if p + stop - start > text.size:
        return False
    i = 0
    while i < stop - start and text[p + i] == flat[start + i]:
        i += 1
    return i == stop - start


@worker(fastmath=False)
def scan(S, doc_offsets, flat, offsets, order, starts, weights, most, counts, stage):
    """See `_scan`; flat holds the n-grams reversed, bucketed by their last token."""
    G = counts.size
    documents = doc_offsets.size - 1
    for p in range(S.size - 1):
        for slot in range(starts[S[p]], starts[S[p] + 1]):
            g = order[slot]
            if begins_at(S, p, flat, offsets[g], offsets[g + 1]):
                counts[g] += 1
    holds = np.zeros(G, np.bool_)
    for d in range(documents):
        some = False
        for p in range(doc_offsets[d], doc_offsets[d + 1]):
            for slot in range(starts[S[p]], starts[S[p] + 1]):
                g = order[slot]
                if not holds[g] and begins_at(S, p, flat, offsets[g], offsets[g + 1]):
                    holds[g] = some = True
        if some:
            for g in range(G):
                if holds[g]:
                    stage[d, 0] += weights[g]
                    if counts[g] <= most:
                        stage[d, 1] = 1
                holds[g] = False


@worker(fastmath=False)
def score_all(
    doc_tokens, doc_offsets, best, flat, offsets, order, starts, weights, u, beta, overlaps,
    kept, shares, ends, totals,
):  # fmt: skip
    """(8), (9) for the documents `best`. n-grams stand by falling weight.

    kept (room, 2): (0, n-gram) or (1, token), those of candidate i from ends[i] to ends[i + 1];
    shares: their scores.
    """
    G, tokens = weights.size, starts.size - 1
    longest = 0
    for i in range(best.size):
        longest = max(longest, doc_offsets[best[i] + 1] - doc_offsets[best[i]])
    x = scratch.tile(longest, np.int64)
    free = np.ones(longest, np.bool_)
    covered, seen = np.full(tokens, -1), np.full(tokens, -1)  # stamped with the candidate's number
    firsts = np.zeros(G + 1, np.int64)
    at = 0
    for i in range(best.size):
        a = doc_offsets[best[i]]
        length = doc_offsets[best[i] + 1] - a
        text = x[:length]
        text[0] = EOS
        text[1:] = doc_tokens[a : a + length - 1]
        free[:length] = True
        any_covered = False
        # all occurrences, by n-gram and then by start
        firsts[:] = 0
        for p in range(length):
            for slot in range(starts[text[p]], starts[text[p] + 1]):
                g = order[slot]
                if begins_at(text, p, flat, offsets[g], offsets[g + 1]):
                    firsts[g + 1] += 1
        for g in range(G):
            firsts[g + 1] += firsts[g]
        places, filled = scratch.tile(firsts[G], np.int64), firsts[:G].copy()
        for p in range(length):
            for slot in range(starts[text[p]], starts[text[p] + 1]):
                g = order[slot]
                if begins_at(text, p, flat, offsets[g], offsets[g + 1]):
                    places[filled[g]] = p
                    filled[g] += 1
        for g in range(G):
            gram = flat[offsets[g] : offsets[g + 1]]
            accepted = False
            for j in range(firsts[g], firsts[g + 1]):
                p = places[j]
                if not overlaps:
                    taken = False
                    for c in range(gram.size):
                        taken = taken or not free[p + c]
                    if taken:
                        continue
                if not accepted:  # it counts once, however often it occurs
                    cover = 1.0
                    if any_covered:
                        words, fresh = 0, 0
                        for c in range(gram.size):
                            again = False
                            for b in range(c):
                                again = again or gram[b] == gram[c]
                            if not again:
                                words += 1
                                fresh += 1 if covered[gram[c]] != i else 0
                        cover = 1 - beta + beta * fresh / words
                    score = weights[g] * cover
                    if score <= 0:
                        break
                    accepted = True
                    kept[at, 0], kept[at, 1], shares[at] = 0, g, score
                    totals[i] += score
                    at += 1
                    for c in range(gram.size):
                        covered[gram[c]] = i
                    any_covered = True
                free[p : p + gram.size] = False
        for p in range(length):
            t = text[p]
            if free[p] and seen[t] != i:
                seen[t] = i
                if t < u.size and u[t] > 0:
                    fresh = 1 if covered[t] != i else 0
                    cover = 1 - beta + beta * fresh if any_covered else 1.0
                    score = u[t] * cover
                    if score > 0:
                        kept[at, 0], kept[at, 1], shares[at] = 1, t, score
                        totals[i] += score
                        at += 1
        ends[i + 1] = at
