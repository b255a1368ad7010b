"""Scores that tell what each head of the language model does.

A score is the average share of its attention that a head gives to the places its kind looks at.
Sources: previous-token and induction heads, with repeated random tokens as the test: Elhage et al.,
"A mathematical framework for transformer circuits", 2021; Olsson et al., "In-context learning and
induction heads", 2022. First-token heads: Xiao et al., "Efficient streaming language models with
attention sinks", 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnlab.models.language import LanguageModel

Scores = Float[np.ndarray, "layers heads"]


class HeadScores(NamedTuple):
    """Shares of attention, in [0, 1], of every head."""

    previous: Scores  # on the token before
    induction: Scores  # on what followed this token's last occurrence
    same: Scores  # on this token's last occurrence
    word_start: Scores  # inside a word, on the token that began it
    line_start: Scores  # on the newline that began the line
    first: Scores  # in the second half of the text, on the very first token


def head_scores(model: LanguageModel, text: str, *, n: int = 256, seed: int = 0) -> HeadScores:
    """Scores over the first n tokens of a text; induction and same over random tokens, repeated.

    ValueError when the text has fewer than n tokens.
    """
    ids = model.encode(text)[:n]
    if len(ids) < n:
        raise ValueError(f"n = {n} tokens, but the text has only {len(ids)}")
    read = model.attention_weights(ids)  # (layers, heads, n, n)
    period = 2 * n // 5
    once = np.random.default_rng(seed).choice(len(model.tokenizer), period, replace=False)
    repeated = model.attention_weights(np.resize(once, n))
    again = np.eye(n, k=-period, dtype=bool)  # (t, t - period): the same token, one period ago
    pieces = [model.tokenizer.pieces[i] for i in ids]
    return HeadScores(
        previous=share(read, np.eye(n, k=-1, dtype=bool)),
        induction=share(repeated, np.roll(again, 1, axis=1)),
        same=share(repeated, again),
        word_start=share(read, _began(np.array([not p.isalpha() for p in pieces]))),
        line_start=share(read, _began(np.array([b"\n" in p for p in pieces]))),
        first=read[..., n // 2 :, 0].mean(-1),
    )


def share(weights: Float[np.ndarray, "layers heads n n"], at: Bool[np.ndarray, "n n"]) -> Scores:
    """Mean attention on the places `at`, over the rows that have any."""
    rows = at.any(axis=1)
    return np.where(at, weights, 0).sum(-1)[..., rows].mean(-1)


def _began(starts: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n n"]:
    """Places (t, s): s is the last start before t, and t itself is none."""
    at = np.arange(len(starts))
    last = np.maximum.accumulate(np.where(starts, at, -1))
    return (last[:, None] == at) & ~starts[:, None]
