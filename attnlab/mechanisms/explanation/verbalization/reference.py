"""Saliency map verbalization in NumPy (Feldhus et al. 2023): search, say, quote, agree."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float, Int

from . import EXHIBIT, words
from .words import Snippet


def normalize(a: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """(1), as float64 numbers that float32 can hold: sums of a few are exact, in whatever order."""
    scaled = a.astype(np.float64) / np.abs(a.max().astype(np.float64))
    return scaled.astype(np.float32).astype(np.float64)


def threshold(a: Float[np.ndarray, "n"], metric: str, value: float) -> float:
    """(2) of normalised attributions; sums run from the first term on, as released."""
    if metric == "mean":
        top = int(len(a) * value)
        return sum(np.sort(a)[::-1][:top].tolist()) / top
    mean = sum(a.tolist()) / len(a)
    variance = sum(((a - mean) ** 2).tolist()) / len(a)
    return value * (variance if metric == "variance" else variance**0.5)


def conv_filters(L: int) -> Int[np.ndarray, "filters L"]:
    """(3): all words of length L with 2..L-2 ones."""
    ones = [J for k in range(2, L - 1) for J in combinations(range(L), k)]
    return np.array([np.isin(np.arange(L), J) for J in ones]).astype(int)


def span_filters(L: int) -> Int[np.ndarray, "filters W"]:
    """(3): centred blocks of 3, 5, … W ones in an odd width W."""
    W = L if L % 2 else L - 1
    centre = np.abs(np.arange(W) - W // 2)
    return np.array([centre <= i // 2 for i in range(3, W + 1, 2)]).astype(int)


def find(
    a: Float[np.ndarray, "n"],
    filters: Int[np.ndarray, "filters W"],
    least: float,
    sgn: str | None,
    behaviour: str,
) -> list[tuple[Snippet, float]]:
    """(4): index lists and means above the threshold, each list once, lists falling in order."""
    n, W = len(a), filters.shape[1]
    windows = n - W + (behaviour == "corrected")  # released: the last window is not tried
    hits: dict[Snippet, float] = {}
    for f in filters:
        for t in range(windows):
            seen = f * a[t : t + W]
            if (sgn == "+" and (seen < 0).any()) or (sgn == "-" and (seen >= 0).any()):
                continue
            mean = sum(seen.tolist()) / int(f.sum())
            if mean > least:
                hits[tuple(t + j for j in range(W) if f[j])] = mean
    return sorted(hits.items(), reverse=True)


def both_searches(
    scaled: Float[np.ndarray, "n"],
    filter_length: int,
    metric: str,
    value: float,
    sgn: str | None,
    behaviour: str,
) -> tuple[list[tuple[Snippet, float]], list[tuple[Snippet, float]]]:
    least = threshold(scaled, metric, value)
    return (
        find(scaled, conv_filters(filter_length), least, sgn, behaviour),
        find(scaled, span_filters(filter_length), least, sgn, behaviour),
    )


@EXHIBIT.path
def search(
    attributions: Float[np.ndarray, "N"],
    offsets: Int[np.ndarray, "documents+1"] | None = None,
    *,
    filter_length: int = 5,
    metric: str = "mean",
    value: float = 0.4,
    sgn: str | None = "+",
    behaviour: str = "released",
) -> dict[str, np.ndarray]:
    """(1)-(4) for each document by itself.

    Raises InputError for an empty document, one whose largest attribution is 0, and for a value of
    metric "mean" that selects no token.
    """
    edges = [0, len(attributions)] if offsets is None else offsets.tolist()
    found = [
        both_searches(normalize(attributions[o:e]), filter_length, metric, value, sgn, behaviour)
        for o, e in pairwise(edges)
    ]
    made = {}
    widest = {"conv": filter_length - 2, "span": filter_length - 1 + filter_length % 2}
    for k, name in enumerate(("conv", "span")):
        hits = [hit for both in found for hit in both[k]]
        indices = np.full((len(hits), widest[name]), -1)
        for row, (J, _) in zip(indices, hits):
            row[: len(J)] = J
        made[f"{name}_indices"] = indices
        made[f"{name}_values"] = np.array([v for _, v in hits], attributions.dtype)
        made[f"{name}_offsets"] = np.cumsum([0, *(len(both[k]) for both in found)])
    return made


@EXHIBIT.path
def verbalize(
    tokens: np.ndarray,
    attributions: Float[np.ndarray, "n"],
    *,
    filter_length: int = 5,
    metric: str = "mean",
    value: float = 0.4,
    sgn: str | None = "+",
    behaviour: str = "released",
) -> dict[str, np.ndarray]:
    """Searches (1)-(4), lines with their coverage (5), the order of tokens, and the summary (6).

    Rounds as the released code does, so that the same of two snippets with (nearly) equal means
    comes first. Coverage in per cent. A search that finds nothing is one row: indices -1, value NaN, coverage 0.
    Raises InputError as `search` does.
    """
    scaled = words.normalized(attributions)
    found = both_searches(scaled, filter_length, metric, value, sgn, behaviour)
    return words.describe(tokens, attributions, *found, behaviour)


@EXHIBIT.path
def instruction_prompt(
    tokens: np.ndarray,
    attributions: Float[np.ndarray, "n"],
    *,
    dataset: str,
    label: str,
    request: str = "explain",
) -> dict[str, np.ndarray]:
    """The scored text, and a prompt around it; request "saliency" asks without the scores."""
    text = words.scored(tokens, attributions)
    asked = words.prompt(text, dataset, label, request)
    return {"scored_text": np.array(text), "prompt": np.array(asked)}


@EXHIBIT.path
def citation_coverage(
    tokens: np.ndarray, attributions: Float[np.ndarray, "n"], text: np.ndarray, *, source: str
) -> dict[str, np.ndarray]:
    """(7): coverage@k for k = 1..10, as shares; 0 where no attribution is positive."""
    quoted = words.quoted(str(text), source)
    s = [(round(x, 2), str(t).lower()) for t, x in zip(tokens, attributions.tolist()) if x > 0]
    s.sort(key=lambda pair: -pair[0])  # stable
    total = sum(x for x, _ in s) or 1.0
    covered = [sum(x for x, t in s[:k] if t in quoted) / total for k in range(1, 11)]
    ceiling = [sum(x for x, _ in s[:k]) / total for k in range(1, 11)]
    return {
        "words": np.array(quoted, str),
        "cov_at_k": np.array(covered, attributions.dtype),
        "ceiling_cov_at_k": np.array(ceiling, attributions.dtype),
    }


@EXHIBIT.path
def fleiss_kappa(ratings: Int[np.ndarray, "n annotators"]) -> dict[str, np.ndarray]:
    """(8). Classes are the ratings that occur, ascending; one class alone leaves kappa undefined."""
    N, A = ratings.shape
    classes = np.unique(ratings)
    table = (ratings[:, :, None] == classes).sum(axis=1)  # n_ik
    P = ((table**2).sum(axis=1) - A) / (A * (A - 1))
    p = table.sum(axis=0) / (N * A)
    chance = (p**2).sum()
    kappa = (P.mean() - chance) / (1 - chance) if len(classes) > 1 else np.nan
    return {"table": table, "fleiss_kappa": np.asarray(kappa)}
