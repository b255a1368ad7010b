"""Constrained beam search: a language model may only say what occurs in the indexed corpus.

    index = Index.of(doc_tokens, doc_offsets)
    history = beam_search(model, query_tokens, index, beams=15, length=10)
    for ngram, logprob in history: ...

Every one of the 2B best extensions of every step is kept, so n-grams of all lengths come out, at
most 2 * beams * length of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu.runtime import worker
from attnlab.kernels.cpu.suffix_array import RankIndex, distinct, search

from . import EOS, EXHIBIT, PAD, SPECIAL
from .odds import Ngram


class NextToken(Protocol):
    """What beam search needs of a language model."""

    def next_logprobs(
        self, query_tokens: Sequence[int], prefix_tokens: Sequence[int]
    ) -> Float[np.ndarray, " V"]:
        """Log-probabilities (float64) of every token after the prefix, for this query."""


@dataclass(frozen=True)
class Index:
    """The FM-index of a corpus, ready for queries."""

    rank: RankIndex
    C: Int[np.ndarray, " sigma+1"]
    shift: int

    @classmethod
    def of(cls, doc_tokens: np.ndarray, doc_offsets: np.ndarray, shift: int = 10) -> Index:
        """Built by `build_index`, which see for what is refused."""
        made = EXHIBIT.run(
            "build_index", backend="numba", doc_tokens=doc_tokens, doc_offsets=doc_offsets,
            shift=shift,
        )  # fmt: skip
        words = made.rank_words.view(np.uint64)
        return cls(RankIndex(words, made.rank_before, made.rank_zeros), made.C, shift)

    @property
    def everything(self) -> tuple[int, int]:
        """The rows of the empty n-gram."""
        return 0, int(self.C[-1])

    def extend(self, rows: tuple[int, int], token: int) -> tuple[int, int]:
        """Rows [l, r) of an n-gram with one more token; (0, 0) if it does not occur."""
        l, r = _extend(self.rank, self.C, token + self.shift, *rows)
        return int(l), int(r)

    def count(self, ngram: Ngram) -> int:
        """How often the n-gram occurs."""
        rows = self.everything
        for token in ngram:
            rows = self.extend(rows, token)
        return rows[1] - rows[0]

    def continuations(self, rows: tuple[int, int]) -> Int[np.ndarray, " found"]:
        """The tokens that follow somewhere, ascending; for the empty n-gram all that occur."""
        size = min(rows[1] - rows[0], len(self.C) - 1)
        symbols = np.empty((2, max(size, 1)), np.int64)
        found = symbols[0, : _distinct(self.rank, *rows, symbols[0], symbols[1])]
        return found[found > 0] - self.shift


class Beam(NamedTuple):
    tokens: Ngram
    logprob: float
    rows: tuple[int, int]


def beam_search(
    model: NextToken,
    query_tokens: Sequence[int],
    index: Index,
    *,
    beams: int = 15,
    length: int = 10,
    constrained: bool = True,
) -> list[tuple[Ngram, float]]:
    """(n-gram, log-probability) of the 2 * beams best extensions of each of `length` steps.

    Masked scores are not renormalised (4). Equal scores are ordered by tokens. What ends in eos or
    pad is kept and not extended; a beam that nothing can continue ends; where fewer tokens occur
    than beams are asked for, there are fewer beams. Without `constrained` the mask is left off.
    Raises ValueError for beams or length below 1 and for log-probabilities above 0.
    """
    if beams < 1 or length < 1:
        raise ValueError(f"beams and length must be at least 1, but are {beams} and {length}")
    history: list[tuple[Ngram, float]] = []
    alive = [Beam((), 0.0, index.everything)]
    for _ in range(length):
        found: list[tuple[float, Ngram, Beam, int]] = []
        for beam in alive:
            scores = np.asarray(model.next_logprobs(query_tokens, beam.tokens), np.float64)
            if scores.ndim != 1 or not (scores <= 0).all():
                raise ValueError("next_logprobs must give a row of log-probabilities, at most 0")
            allowed = np.arange(len(scores))
            if constrained:
                allowed = index.continuations(beam.rows)
                allowed = allowed[allowed < len(scores)]
            allowed = allowed[scores[allowed] > -np.inf]
            for token in _best(scores[allowed], allowed, 2 * beams):
                extended = (*beam.tokens, int(token))
                found.append((-(beam.logprob + scores[token]), extended, beam, int(token)))
        found = sorted(found, key=lambda row: row[:2])[: 2 * beams]
        history += [(tokens, -cost) for cost, tokens, _, _ in found]
        alive = [
            Beam(tokens, -cost, index.extend(beam.rows, token))
            for cost, tokens, beam, token in found
            if token not in (EOS, PAD)
        ][:beams]
        if not alive:
            break
    return history


def ngrams(history: list[tuple[Ngram, float]], index: Index) -> dict[Ngram, float]:
    """The history's n-grams without special tokens, those that occur, each with its best score."""
    found: dict[Ngram, float] = {}
    for tokens, logprob in history:
        g = tuple(t for t in tokens if t >= SPECIAL)
        if g and index.count(g) > 0:
            found[g] = max(logprob, found.get(g, -np.inf))
    return found


def _best(scores: np.ndarray, tokens: np.ndarray, most: int) -> np.ndarray:
    """The `most` tokens of highest score, the smaller of equals first."""
    if len(tokens) > most:
        least = np.partition(scores, len(scores) - most)[len(scores) - most]
        tokens, scores = tokens[scores >= least], scores[scores >= least]
    return tokens[np.lexsort((tokens, -scores))][:most]


@worker
def _extend(rank, C, symbol, l, r):
    return search(rank, C, symbol, l, r)


@worker
def _distinct(rank, l, r, symbols, counts):
    return distinct(rank, l, r, symbols, counts)
