"""SEAL: every n-gram of a document is an identifier; an FM-index constrains and scores them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE

EOS, PAD, SPECIAL = 2, 1, 3  # ids below SPECIAL are special


def corpus(n: int, rng: np.random.Generator, vocabulary: int, doc_length: int) -> dict[str, Any]:
    """n tokens of a skewed unigram distribution in documents of doc_length, each ended by eos."""
    body = SPECIAL + np.minimum(rng.geometric(4 / (vocabulary + 3), n) - 1, vocabulary - 1)
    starts = np.arange(doc_length, n, doc_length)
    tokens = np.append(np.insert(body, starts, EOS), EOS)
    return {"doc_tokens": tokens, "doc_offsets": np.append(0, 1 + np.flatnonzero(tokens == EOS))}


def ngrams_of(
    tokens: np.ndarray, rng: np.random.Generator, count: int, longest: int
) -> dict[str, np.ndarray]:
    """n-grams of 1..longest tokens read off the corpus, every fifth with its last token changed."""
    made = []
    for i in range(count):
        length = min(int(rng.integers(1, longest + 1)), len(tokens))
        start = int(rng.integers(0, len(tokens) - length + 1))
        g = tokens[start : start + length].copy()
        if i % 5 == 4:
            g[-1] = rng.integers(0, tokens.max() + 2)
        made.append(g)
    return {
        "ngram_tokens": np.concatenate(made),
        "ngram_offsets": np.cumsum([0, *map(len, made)]),
    }


def corpus_example(
    n: int, rng: np.random.Generator, vocabulary: int = 8, doc_length: int = 7
) -> dict[str, Any]:
    """A corpus of n tokens."""
    return corpus(n, rng, vocabulary, doc_length)


def count_example(
    n: int,
    rng: np.random.Generator,
    vocabulary: int = 8,
    doc_length: int = 7,
    ngrams: int = 9,
    longest: int = 4,
) -> dict[str, Any]:
    """n-grams for the index that build_index makes of the same sizes and seed."""
    drawn = corpus(n, rng, vocabulary, doc_length)
    return ngrams_of(drawn["doc_tokens"], rng, ngrams, longest)


def query_example(
    n: int,
    rng: np.random.Generator,
    vocabulary: int = 8,
    doc_length: int = 7,
    ngrams: int = 9,
    longest: int = 4,
) -> dict[str, Any]:
    """A corpus of n tokens and n-grams of it."""
    drawn = corpus(n, rng, vocabulary, doc_length)
    return drawn | ngrams_of(drawn["doc_tokens"], rng, ngrams, longest)


def mask_example(
    n: int,
    rng: np.random.Generator,
    vocabulary: int = 8,
    doc_length: int = 7,
    prefixes: int = 5,
    steps: int = 2,
) -> dict[str, Any]:
    """Prefixes of `steps` tokens after the start token, read off a corpus of n tokens."""
    drawn = corpus(n, rng, vocabulary, doc_length)
    tokens = np.tile(drawn["doc_tokens"], steps + 1)
    starts = rng.integers(0, n, (prefixes, 1))
    ids = np.hstack([np.full((prefixes, 1), EOS), tokens[starts + np.arange(steps)]])
    return drawn | {
        "input_ids": ids,
        "scores": np.log(rng.dirichlet(np.ones(vocabulary + SPECIAL), prefixes)),
    }


def score_example(
    n: int,
    rng: np.random.Generator,
    vocabulary: int = 8,
    doc_length: int = 7,
    ngrams: int = 9,
    longest: int = 4,
    unigrams: bool = True,
) -> dict[str, Any]:
    """A corpus, n-grams with log-probabilities, and a first-step distribution."""
    drawn = query_example(n, rng, vocabulary, doc_length, ngrams, longest)
    drawn["logprob"] = -4 * rng.random(ngrams)
    if unigrams:
        drawn["unigram_logprob"] = np.log(rng.dirichlet(np.full(vocabulary + SPECIAL, 0.5)))
    return drawn


def not_ragged(tokens: Any, offsets: Any) -> bool:
    return bool(offsets[0] != 0 or offsets[-1] != len(tokens) or (offsets[1:] < offsets[:-1]).any())


def negative(tokens: Any) -> bool:
    return bool(len(tokens)) and bool(tokens.min() < 0)


def unended(c: Any) -> bool:
    return bool((c.doc_tokens[c.doc_offsets[1:] - 1] != c.options.get("eos", EOS)).any())


RAGGED_DOCS = (
    lambda c: not_ragged(c.doc_tokens, c.doc_offsets),
    "doc_offsets must start at 0, never fall, and end at the number of doc_tokens",
)
RAGGED_NGRAMS = (
    lambda c: not_ragged(c.ngram_tokens, c.ngram_offsets),
    "ngram_offsets must start at 0, never fall, and end at the number of ngram_tokens",
)
EMPTY_BODY = (
    lambda c: bool((c.doc_offsets[1:] - c.doc_offsets[:-1] < 2).any()),
    "doc_offsets: a document has an empty body (at least one token before its eos)",
)
NO_EOS = (unended, "doc_tokens: a document does not end with eos")
NEGATIVE_DOC = (lambda c: negative(c.doc_tokens), "doc_tokens: token ids must not be negative")
NEGATIVE_NGRAM = (
    lambda c: negative(c.ngram_tokens),
    "ngram_tokens: token ids must not be negative",
)
CORPUS = (RAGGED_DOCS, EMPTY_BODY, NEGATIVE_DOC, NO_EOS)
NGRAMS = (RAGGED_NGRAMS, NEGATIVE_NGRAM)

DOCS = (
    Array("doc_tokens", "N", dtype="int", about="all documents, one after another, each with eos"),
    Array("doc_offsets", "documents+1", dtype="int", about="document i is [i]:[i+1]"),
)
NGRAM_LISTS = (
    Array("ngram_tokens", "tokens", dtype="int", about="n-grams one after another"),
    Array("ngram_offsets", "ngrams+1", dtype="int", about="n-gram i is [i]:[i+1]"),
)
RANK = (
    Array("rank_words", "levels words", dtype="int", optional=True, about="64 bits a word"),
    Array("rank_before", "levels words", dtype="int", when="rank_words", about="ones before it"),
    Array("rank_zeros", "levels", dtype="int", when="rank_words", about="zeros of the level"),
)
SHIFT = Option("shift", int, 10, "added to token ids; 0 is the terminal", minimum=1)
EMPTY = ("tokens", "ngrams")

INDEX = (
    "(1) S = rev(D_0) rev(D_1) … + shift, then 0;  BWT[r] = S[SA[r] - 1], cyclic",
    "(2) l' = C[c] + rank(c, l);  r' = C[c] + rank(c, r);  half-open, tokens in reading order",
    "    C[c] = symbols < c;  rank(c, i) = occurrences of c in BWT[0..i);  count = r - l",
)
SCORING = (
    "(5) P(g) = (count + lambda) / (N + lambda);  s = log P(g|q) - 1e-10",
    "    w(g) = max(0, s + ln(1 - P) - ln P - ln(1 - e^s))^alpha;  0 if count = 0",
    "(6) u_t: the same for single tokens, without alpha and 1e-10",
    "(7) candidates: documents with an n-gram of w > 0 and count <= max_occurrences_1",
    "(8) greedily, w falling: w (1 - beta + beta |set(g) minus C| / |set(g)|), C the covered words",
    "(9) score = accepted scores + u_t times cover over the tokens at free positions",
)

EXHIBIT = Exhibit(
    name="seal",
    title="SEAL: n-grams as document identifiers",
    family="ranking",
    package=__name__,
    paper=Paper(
        title="Autoregressive Search Engines: Generating Substrings as Document Identifiers",
        authors=("Michele Bevilacqua", "others"),
        year=2022,
        venue="NeurIPS 2022",
        arxiv="2204.10628",
        code="facebookresearch/SEAL@fdaf307",
    ),
    idea=(
        "Instead of one learned identifier a document, every n-gram of it is an identifier. A "
        "language model reads the query and generates n-grams, and a full-text index masks its "
        "choices so that only what occurs in the corpus can be said. Each n-gram weighs as much as "
        "it is likelier under the query than in the corpus, and a document scores by the n-grams "
        "it holds, repeated words discounted."
    ),
    attention_map=(
        "none: the index counts and constrains, the model that generates stands outside."
    ),
    operations=(
        Operation(
            "count_ngrams",
            headline=True,
            about="how often each n-gram occurs in the indexed corpus, by backward search",
            equations=INDEX,
            inputs=(
                Array("bwt", "length", dtype="int", about="Burrows-Wheeler transform of (1)"),
                Array("C", "sigma+1", dtype="int", about="C[c]; the last is the length"),
                *NGRAM_LISTS,
                *RANK,
            ),
            options=(SHIFT,),
            outputs=(
                Array("ranges", "ngrams 2", dtype="int", about="rows [l, r); (1, 1) if absent"),
                Array("counts", "ngrams", dtype="int"),
            ),
            refuse=(
                *NGRAMS,
                (
                    lambda c: (
                        c.C[0] != 0 or c.C[-1] != c.length or bool((c.C[1:] < c.C[:-1]).any())
                    ),
                    "C must rise from 0 to the length {length} of bwt",
                ),
                (
                    lambda c: (
                        c.rank_words is not None
                        and (
                            c.words != c.length // 64 + 1
                            or c.levels != max(1, (len(c.C) - 2).bit_length())
                            or bool((c.rank_zeros < 0).any())
                            or bool((c.rank_zeros > c.length).any())
                        )
                    ),
                    "rank_words is not the structure that build_index makes for this bwt and C",
                ),
            ),
            empty=EMPTY,
            example=count_example,
            prepare="build_index",
            vary={
                "vocabulary": (1, 8, 70),
                "doc_length": (1, 7),
                "ngrams": (1, 9),
                "longest": (1, 5),
            },
            bench_sizes={
                "vocabulary": 5000,
                "doc_length": 100,
                "ngrams": 256,
                "longest": 5,
            },
            no_gradient="integers in, integers out",
            cost=Cost(
                time="tokens of the n-grams x log2(sigma), flat in the corpus",
                exponent=0.0,
                size="length",
                grows="tokens of the corpus",
                bytes=lambda c: 16.0 * 3 * c.tokens * max(1, math.log2(c.sigma)),
                memory="ngrams",
                memory_exponent=0.0,
                note="with the rank structure given; without it, it is built: length x log2(sigma)",
            ),
        ),
        Operation(
            "build_index",
            about="suffix array, Burrows-Wheeler transform and rank structure of a corpus",
            equations=INDEX,
            paths=frozenset({"numpy", "numba"}),
            inputs=DOCS,
            options=(SHIFT,),
            outputs=(
                Array("suffix_array", "N+1", dtype="int"),
                Array("bwt", "N+1", dtype="int"),
                Array("C", "_", dtype="int", about="C[c] for c in 0..sigma"),
                Array(
                    "rank_words", "_ _", dtype="int", about="wavelet matrix of bwt, 64 bits a word"
                ),
                Array("rank_before", "_ _", dtype="int", about="ones before each word"),
                Array("rank_zeros", "_", dtype="int", about="zeros of each level"),
            ),
            refuse=CORPUS,
            example=corpus_example,
            vary={"vocabulary": (1, 8, 70), "doc_length": (1, 7)},
            bench_sizes={"vocabulary": 5000, "doc_length": 100},
            no_gradient="integers in, integers out",
            cost=Cost(time="N log N", exponent=1.0, size="N", grows="tokens of the corpus"),
        ),
        Operation(
            "query_index",
            about="what the index knows of n-grams: rows, counts, documents, continuations",
            equations=(
                *INDEX,
                "(3) continuations: distinct symbols of BWT[l..r) with multiplicity",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=DOCS + NGRAM_LISTS,
            options=(SHIFT,),
            outputs=(
                Array("suffix_array", "N+1", dtype="int"),
                Array("bwt", "N+1", dtype="int"),
                Array("ranges", "ngrams 2", dtype="int", about="rows [l, r); (1, 1) if absent"),
                Array("counts", "ngrams", dtype="int"),
                Array(
                    "docs", "_", dtype="int", about="documents of each n-gram, ascending, repeated"
                ),
                Array("docs_offsets", "ngrams+1", dtype="int"),
                Array("cont_pairs", "_", dtype="int", about="(token, count) …, ascending by token"),
                Array("cont_offsets", "ngrams+1", dtype="int", about="counts numbers, not pairs"),
                Array("occurring_distinct", "_", dtype="int"),
                Array(
                    "occurring_counts", "_", dtype="int", about="of rows 0..N-1, as the code does"
                ),
                Array("doc0", "_", dtype="int", about="D_0 with its eos"),
            ),
            refuse=CORPUS + NGRAMS,
            empty=EMPTY,
            example=query_example,
            vary={"vocabulary": (1, 8, 70), "doc_length": (1, 7), "longest": (1, 5)},
            bench_sizes={"vocabulary": 5000, "doc_length": 100, "ngrams": 256},
            no_gradient="integers in, integers out",
            cost=Cost(time="N log N", exponent=1.0, size="N", grows="tokens of the corpus"),
        ),
        Operation(
            "mask_scores",
            about="the decoder's mask: only what continues the prefix somewhere in the corpus",
            equations=(
                "(4) allowed = all occurring tokens if y is empty; {pad} if y ends in eos or pad;",
                "    else continuations(y).  Others -inf, nothing renormalised",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                *DOCS,
                Array("input_ids", "Q t", dtype="int", about="prefixes, start token first"),
                Array("scores", "Q V", about="log-probabilities of the next token"),
            ),
            options=(
                Option("pad", int, PAD, "padding", minimum=0),
                Option("eos", int, EOS, "ends a document", minimum=0),
            ),
            outputs=(
                Array("first_step", "Q V", about="for the start token alone"),
                Array("masked", "Q V", about="for input_ids; a row may be all -inf"),
            ),
            refuse=(
                *CORPUS,
                (
                    lambda c: bool(c.input_ids.min() < 0),
                    "input_ids: token ids must not be negative",
                ),
            ),
            example=mask_example,
            vary={
                "vocabulary": (1, 8, 70),
                "doc_length": (1, 7),
                "prefixes": (1, 6),
                "steps": (0, 1, 3),
            },
            bench_sizes={"vocabulary": 5000, "doc_length": 100, "prefixes": 15, "steps": 2},
            batch="Q",
            no_gradient="a mask",
            cost=Cost(time="Q (N + V)", exponent=1.0, size="N", grows="tokens of the corpus"),
        ),
        Operation(
            "score_documents",
            about="documents ranked by the n-grams they contain",
            equations=SCORING,
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                *DOCS,
                *NGRAM_LISTS,
                Array(
                    "logprob", "ngrams", about="log P(g|q); of repeated n-grams the largest counts"
                ),
                Array("unigram_logprob", "V", optional=True, about="log P(t|q) of the first step"),
            ),
            options=(
                Option("alpha", float, 2.0, "exponent of the n-grams' log odds", above=0),
                Option("beta", float, 0.8, "discount of covered words", minimum=0, maximum=1),
                Option("smoothing", float, 5.0, "lambda", above=0),
                Option(
                    "max_occurrences_1", int, 1500, "commoner n-grams nominate nobody", minimum=0
                ),
                Option("n_docs_complete_score", int, 1500, "documents scored fully", minimum=1),
                Option("allow_overlaps", bool, False, "n-grams may share positions"),
                Option("add_best_unigrams_to_ngrams", bool, False, "as many as n-grams given"),
                Option("use_top_k_unigrams", int, 5000, "by log P(t|q)", minimum=0),
            ),
            outputs=(
                Array("doc_order", "_", dtype="int", about="by falling score, then by number"),
                Array("doc_score", "_"),
                Array("all_ngram_tokens", "_", dtype="int", about="n-grams with w > 0, w falling"),
                Array("all_ngram_offsets", "_", dtype="int"),
                Array("all_ngram_score", "_"),
                Array("kept", "_", dtype="int", about="per document: length, tokens, length, …"),
                Array("kept_offsets", "_", dtype="int"),
                Array("kept_score", "_", about="in the order of kept"),
            ),
            refuse=(
                *CORPUS,
                *NGRAMS,
                (
                    lambda c: bool((c.ngram_offsets[1:] == c.ngram_offsets[:-1]).any()),
                    "ngram_offsets: an n-gram is empty",
                ),
                (
                    lambda c: not bool((c.logprob <= 0).all()),
                    "logprob must be log-probabilities: at most 0",
                ),
                (
                    lambda c: (
                        c.unigram_logprob is not None and not bool((c.unigram_logprob <= 0).all())
                    ),
                    "unigram_logprob must be log-probabilities: at most 0",
                ),
            ),
            empty=EMPTY,
            example=score_example,
            vary={
                "vocabulary": (1, 8, 30),
                "doc_length": (1, 7),
                "longest": (1, 5),
                "unigrams": (True, False),
                "alpha": (2.0, 1.5),
                "beta": (0.0, 0.8, 1.0),
                "allow_overlaps": (False, True),
                "add_best_unigrams_to_ngrams": (False, True),
                "use_top_k_unigrams": (5000, 3),
                "max_occurrences_1": (1500, 2),
                "n_docs_complete_score": (1500, 2),
            },
            bench_sizes={"vocabulary": 5000, "doc_length": 100, "ngrams": 128},
            no_gradient="a ranking",
            cost=Cost(time="N x n-grams", exponent=1.0, size="N", grows="tokens of the corpus"),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "occurring_counts leaves the last row out, as the authors' code does.",
        "Constrained beam search over a model is in decode.py: beam_search(model, query, index).",
    ),
)
