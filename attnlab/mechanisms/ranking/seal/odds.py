"""How much an n-gram weighs (Bevilacqua et al. 2022): log odds of the model against the corpus."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

Ngram = tuple[int, ...]


def log_odds(
    s: Float[np.ndarray, " G"], counts: Int[np.ndarray, " G"], N: int, smoothing: float
) -> Float[np.ndarray, " G"]:
    """max(0, log odds under the query - log odds in the corpus), 0 for what does not occur.

    s: log-probabilities under the query, below 0; P = (count + lambda) / (N + lambda).
    ln(1 - e^s) is written as the authors have it: near s = 0 expm1 would be closer to the truth,
    but an n-gram that is certain under the query would then weigh otherwise than theirs.
    """
    with np.errstate(divide="ignore"):  # P = 1: nothing can be likelier, log odds -inf
        P = (counts + smoothing) / (N + smoothing)
        odds = (s + np.log(1 - P)) - (np.log(P) + np.log(1 - np.exp(s)))
    return np.where(counts > 0, np.maximum(0, odds), 0)


def ngram_weights(
    logprob: Float[np.ndarray, " G"],
    counts: Int[np.ndarray, " G"],
    N: int,
    smoothing: float,
    alpha: float,
) -> Float[np.ndarray, " G"]:
    """(5): w of each n-gram."""
    return log_odds(logprob - 1e-10, counts, N, smoothing) ** alpha


def unigram_weights(
    logprob: Float[np.ndarray, " V"],
    counts: Int[np.ndarray, " V"],
    N: int,
    smoothing: float,
    top: int,
    given: list[Ngram],
) -> Float[np.ndarray, " V"]:
    """(6): u of each token; counts are the tokens' occurrences in the corpus.

    A log-probability within 1e-10 of 0 is taken as -1e-10, so that u stays finite.
    """
    u = log_odds(np.minimum(logprob, -1e-10), counts, N, smoothing)
    ranked = np.argsort(-logprob, kind="stable")
    u[ranked[top:]] = 0
    u[:3] = 0  # special tokens
    u[[g[0] for g in given if len(g) == 1 and g[0] < len(u)]] = 0
    return u


def join(weights: dict[Ngram, float], u: Float[np.ndarray, " V"], most: int) -> dict[Ngram, float]:
    """The n-grams and the `most` best tokens, by falling weight, then by tokens ascending."""
    best = [t for t in np.argsort(-u, kind="stable")[:most] if u[t] > 0]
    joined = {g: w for g, w in weights.items() if w > 0} | {(int(t),): float(u[t]) for t in best}
    return dict(sorted(joined.items(), key=lambda item: (-item[1], item[0])))


def lists(tokens: np.ndarray, offsets: np.ndarray) -> list[Ngram]:
    """The rows of a ragged array as tuples."""
    flat = tokens.tolist()
    return [tuple(flat[a:b]) for a, b in pairwise(offsets.tolist())]


def distinct(ngrams: list[Ngram], logprob: np.ndarray) -> dict[Ngram, float]:
    """Each n-gram once, with the largest of its log-probabilities."""
    found: dict[Ngram, float] = {}
    for g, lp in zip(ngrams, logprob.tolist()):
        found[g] = max(lp, found.get(g, -np.inf))
    return found
