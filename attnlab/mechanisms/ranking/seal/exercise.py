"""SEAL: n-grams as document identifiers as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part

SHIFT = 10  # of token ids, so that the terminal 0 stays apart


def documents_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """About n tokens in documents of 1 to 5, each ended by eos = 2; a vocabulary of 1 to 6."""
    lengths = rng.integers(1, 6, max(1, n // 3))
    words = int(rng.integers(1, 7))
    bodies = [np.append(rng.integers(3, 3 + words, length), 2) for length in lengths]
    offsets = np.cumsum([0, *map(len, bodies)])
    return {"doc_tokens": np.concatenate(bodies), "doc_offsets": offsets, "shift": SHIFT}


def text_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """2n symbols of up to 9 kinds, sometimes a long repeat, before the terminal 0."""
    S = rng.integers(1, 1 + rng.integers(2, 10), 2 * n)
    if rng.random() < 0.15:
        S = np.resize(S[: max(1, n // 3)], 2 * n)
    return {"S": np.append(S, 0)}


def search_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """A piece of a text of n tokens to search for, or tokens that may not occur in it; of three
    tokens, always one whose symbol is beyond the alphabet."""
    tokens = rng.integers(3, 3 + rng.integers(3, 9), n)
    S = np.append(tokens[::-1] + SHIFT, 0)
    order = sorted(range(len(S)), key=lambda i: S[i:].tolist())
    m = int(rng.integers(min(n, 2), min(n, 4) + 1))
    start = int(rng.integers(0, n - m + 1))
    absent = rng.random() < 0.15
    g = rng.integers(3, 12, m) if absent else tokens[start : start + m]
    return {
        "bwt": S[np.array(order) - 1],
        "C": np.append(0, np.cumsum(np.bincount(S))),
        "g": np.append(g, 40) if n == 3 else g,
        "shift": SHIFT,
    }


EXERCISE = Exercise(
    difficulty=4,
    minutes=75,
    hints=(
        "The rows that begin with an n-gram stand together in the sorted suffixes, so two numbers "
        "say where they are. Each further token narrows the range; the text itself is never read.",
        "The text is stored reversed, so feed the n-gram in reading order, first token first. A new "
        "end is made of the symbols that are smaller than the token's, and of how often the token's "
        "symbol stands in the transform before the old end. Keep the range half-open.",
        "Begin with (0, len(bwt)); with c = t + shift both ends become C[c] + the number of c in "
        "bwt[:end]. A symbol beyond C, or an empty range, ends the search with (1, 1).",
    ),
    parts=(
        Part(
            "stored_text",
            "the text that is indexed: documents reversed, shifted, a terminal",
            documents_example,
        ),
        Part(
            "suffix_order",
            "the suffix array of a text that ends in its smallest symbol",
            text_example,
        ),
        Part("fm_index_search", "the rows of one n-gram, by backward search", search_example),
    ),
    mistakes=(
        Mistake(
            "inclusive range",
            old="    return (l, r) if r > l else (1, 1)",
            new="    return (l, r - 1) if r > l else (1, 1)",
            says="Your ranges end one row early: they look inclusive, as the paper writes them. The "
            "range that is asked for is half-open, so that its length is the count.",
        ),
        Mistake(
            "symbols up to and including",
            old="(C[c] + np.count_nonzero",
            new="(C[c + 1] + np.count_nonzero",
            says="Your ranges begin too low down the table, by as many rows as the token's symbol "
            "has: C counts the symbols that are strictly smaller.",
        ),
        Mistake(
            "n-gram reversed",
            old="    for t in g:  # reading order",
            new="    for t in g[::-1]:  # reading order",
            says="Your counts are those of the n-gram read backwards. The text is already stored in "
            "reverse: feed the tokens in reading order, first token first.",
        ),
        Mistake(
            "no shift",
            old="        c = t + shift\n",
            new="        c = t\n",
            says="Your n-grams are searched for by their token ids, but the text holds symbols: ids "
            "moved up so that the terminal has a number of its own. Look at `shift`.",
        ),
        Mistake(
            "documents not reversed",
            old="doc_tokens[a:b][::-1] + shift",
            new="doc_tokens[a:b] + shift",
            says="Your stored text reads forwards. Each document is stored back to front, so that "
            "backward search appends on the right of the original.",
        ),
        Mistake(
            "ranks for starts",
            old="            return order\n",
            new="            return rank\n",
            says="Your suffix array is the inverse one: it says which place each suffix takes, "
            "where the start of the suffix in each place is asked for.",
        ),
    ),
    questions=(
        "the transform and backward search of 'banana' by hand, with the shrinking range drawn",
        "continuations without an index, then with it",
        "why log odds and not log probabilities: show that ', the' wins otherwise",
        "what renormalising after the mask would do to log P(g|q)",
    ),
    exponent=1.0,  # the plain reference counts by scanning; the rank structure makes it flat
)
