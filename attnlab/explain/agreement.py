"""Do two attribution methods say the same? Correlations of rankings, of values, and of the top.

Scores are rounded to 12 significant digits before they are ranked, so that what is equal in exact
arithmetic counts as a tie (the disagreement study's vectors do so). All measures are NaN where they
are undefined: for texts of one token and where a method gives every token the same score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from attnlab.contract import InputError, suggest

Vector = Float[np.ndarray, "n"]
DIGITS = 12
SMALL = 2**19  # comparisons below which NumPy is done before the compiled kernel is loaded


def rounded(x: Float[np.ndarray, "*shape"], digits: int = DIGITS) -> Float[np.ndarray, "*shape"]:
    """Rounds to significant digits; zero, NaN and infinity stay."""
    x = np.asarray(x, dtype=np.float64)
    size = np.abs(np.where(np.isfinite(x) & (x != 0), x, 1.0))
    with np.errstate(invalid="ignore", over="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(size)))
        near = np.round(x * scale) / scale
    return np.where(np.isfinite(scale) & np.isfinite(near), near, x)


def _pair(a: Vector, b: Vector) -> tuple[Vector, Vector]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"a and b must both have shape (n,), but have {a.shape} and {b.shape}")
    for name, values in (("a", a), ("b", b)):
        if not np.isfinite(values).all():
            raise InputError(f"{name} must be finite, but holds NaN or infinity")
    return rounded(a), rounded(b)


def kendall_taus(
    a: Float[np.ndarray, "pairs n"], b: Float[np.ndarray, "pairs n"]
) -> Float[np.ndarray, "pairs"]:
    """Kendall's tau-b of many pairs at once, equation (1) of Neely et al., 2022."""
    a, b = rounded(a), rounded(b)
    if a.shape[1] < 2:
        return np.full(len(a), np.nan)
    if a.shape[0] * a.shape[1] ** 2 > SMALL:
        from attnlab.kernels.cpu.kendall import kendall_tau as compiled

        return compiled(a, b)
    sign_a, sign_b = np.sign(a[:, :, None] - a[:, None]), np.sign(b[:, :, None] - b[:, None])
    with np.errstate(invalid="ignore"):
        return (sign_a * sign_b).sum((1, 2)) / np.sqrt(
            np.abs(sign_a).sum((1, 2)) * np.abs(sign_b).sum((1, 2))
        )


def kendall_tau(a: Vector, b: Vector) -> float:
    """Kendall's tau-b: concordant less discordant pairs, ties taken out of the denominator."""
    a, b = _pair(a, b)
    return float(kendall_taus(a[None], b[None])[0])


def _signs(x: Vector) -> Float[np.ndarray, "n n"]:
    return np.sign(x[:, None] - x[None])


def top(x: Vector, k: int) -> Bool[np.ndarray, "n"]:
    """The items in the k best buckets of equal scores: more than k of them where there are ties."""
    if k < 1:
        raise InputError(f"k must be at least 1, but is {k}")
    best = np.unique(x)[-k:]
    return x >= best[0]


def top_k_kendall(a: Vector, b: Vector, *, k: int = 5, p: float = 0.5) -> float:
    """Kendall's tau of the top k (Fagin, Kumar, Mahdian, Sivakumar & Vee, 2004), with penalty p.

    Over pairs {i, j} with i in one vector's top k and j in the other's: 1 - 2 (pairs in opposite
    order + p * pairs tied in exactly one vector) / the number of pairs. Order and ties are those of
    the full vectors, also for items outside the top k.
    """
    if not 0 < p <= 1:
        raise InputError(f"p must be in (0, 1], but is {p}")
    a, b = _pair(a, b)
    if len(a) < 2:
        return float("nan")
    in_a, in_b = top(a, k), top(b, k)
    pairs = np.triu(np.outer(in_a, in_b) | np.outer(in_b, in_a), 1)
    sign_a, sign_b = _signs(a)[pairs], _signs(b)[pairs]
    opposite = (sign_a * sign_b < 0).sum()
    half_tied = ((sign_a == 0) != (sign_b == 0)).sum()
    return float(1 - 2 * (opposite + p * half_tied) / max(1, len(sign_a)))


def weighted_tau(a: Vector, b: Vector, *, alpha: float = 1.0) -> float:
    """Weighted tau (Vigna, "A weighted correlation index for rankings with ties", 2015).

    A pair weighs (1 + r_i)^-alpha + (1 + r_j)^-alpha with ranks r from 0, the best: the mean over
    ranking by (a, b) and by (b, a), as scipy.stats.weightedtau.
    """
    a, b = _pair(a, b)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    sign_a, sign_b = _signs(a), _signs(b)
    found = []
    for first, then in ((a, b), (b, a)):
        rank = np.empty(len(a))
        rank[np.lexsort((then, first))[::-1]] = np.arange(len(a))
        weight = (1 + rank) ** -alpha
        w = weight[:, None] + weight[None]
        inner = [
            (w * x * y).sum() for x, y in ((sign_a, sign_b), (sign_a, sign_a), (sign_b, sign_b))
        ]
        found.append(inner[0] / np.sqrt(inner[1] * inner[2]))
    return float(np.mean(found))


def ranks(x: Vector) -> Vector:
    """Ranks from 1, equal scores share the mean of theirs."""
    _, bucket, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[bucket]


def pearson(a: Vector, b: Vector) -> float:
    """Pearson's correlation of the scores."""
    return _correlation(*_pair(a, b))


def spearman(a: Vector, b: Vector) -> float:
    """Spearman's rho: Pearson's correlation of the ranks."""
    a, b = _pair(a, b)
    return _correlation(ranks(a), ranks(b))


def _correlation(a: Vector, b: Vector) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    x, y = a - a.mean(), b - b.mean()
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def jaccard(a: Vector, b: Vector, *, k: int = 5) -> float:
    """|top k of a and of b| / |top k of a or of b|; all that tie with the k-th are in (Jaccard, 1901)."""
    a, b = _pair(a, b)
    if len(a) < 2:
        return float("nan")
    kth = max(len(a) - k, 0)
    in_a, in_b = a >= np.sort(a)[kth], b >= np.sort(b)[kth]
    return float((in_a & in_b).sum() / (in_a | in_b).sum())


def rank_biased_overlap(a: Vector, b: Vector, *, p: float = 0.9) -> float:
    """Rank-biased overlap of two full rankings (Webber, Moffat & Zobel, 2010), extrapolated.

    (1 - p) sum_d p^(d-1) A_d + p^n, A_d the shared part of the best d. Of a bucket of ties that
    depth d cuts, every item is in by the same share: the mean over all ways to break the ties of
    either (so that a vector with ties overlaps with itself by less than 1).
    """
    if not 0 < p < 1:
        raise InputError(f"p must be in (0, 1), but is {p}")
    a, b = _pair(a, b)
    n = len(a)
    if n < 2:
        return float("nan")
    depth = np.arange(1, n + 1)[:, None]

    def inside(x: Vector) -> Float[np.ndarray, "depths n"]:
        _, bucket, counts = np.unique(-x, return_inverse=True, return_counts=True)
        start = (np.cumsum(counts) - counts)[bucket]
        return np.clip((depth - start) / counts[bucket], 0, 1)

    shared = (inside(a) * inside(b)).sum(1) / depth[:, 0]
    return float((1 - p) * (p ** (depth[:, 0] - 1) * shared).sum() + p**n * shared[-1])


@dataclass(frozen=True)
class Measure:
    """A measure of agreement; 1 is the same ranking."""

    name: str
    title: str
    source: str
    function: Callable[..., float]


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure("kendall_tau", "Kendall's τ-b", "Kendall 1945", kendall_tau),
        Measure("top_k_kendall", "top-5 Kendall, p = ½", "Fagin et al. 2004", top_k_kendall),
        Measure("weighted_tau", "weighted τ", "Vigna 2015", weighted_tau),
        Measure("spearman", "Spearman's ρ", "Spearman 1904", spearman),
        Measure("pearson", "Pearson's r", "Pearson 1895", pearson),
        Measure("jaccard", "top-5 Jaccard", "Jaccard 1901", jaccard),
        Measure("rank_biased_overlap", "rank-biased overlap, p = 0.9", "Webber et al. 2010", rank_biased_overlap),
    )
}  # fmt: skip


def find(name: str) -> Measure:
    """A measure by name; InputError says what was meant."""
    if name not in MEASURES:
        meant = suggest(name, MEASURES) or f"; known: {', '.join(MEASURES)}"
        raise InputError(f"no measure of agreement is named {name!r}{meant}")
    return MEASURES[name]


def matrix(
    scores: Sequence[Vector] | Float[np.ndarray, "methods n"], measure: str = "kendall_tau"
) -> Float[np.ndarray, "methods methods"]:
    """The measure between every two methods' scores of one text.

    NaN where it is undefined, also where a method's scores are not finite. The diagonal is 1 where
    the measure of a vector with itself is defined.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"scores must have shape (methods, n), but have {values.shape}")
    function = find(measure).function
    count = len(values)
    usable = np.isfinite(values).all(axis=1).reshape(-1)
    found = np.full((count, count), np.nan)
    rows, cols = np.triu_indices(count)
    both = usable[rows] & usable[cols]
    rows, cols = rows[both], cols[both]
    if measure == "kendall_tau":
        result = kendall_taus(values[rows], values[cols])
    else:
        result = np.array([function(values[i], values[j]) for i, j in zip(rows, cols)])
    found[rows, cols] = found[cols, rows] = result
    return found
