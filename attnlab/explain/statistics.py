"""Means that say how sure they are, and tests that know how many they are.

`Running` and `Paired` see one text after another and keep sums only, so that a data set of any size
needs the same memory. The bootstrap is the Poisson bootstrap: each text enters each resample
Poisson(1) times (Chamandy, Muralidharan, Najmi & Naidu, 2012), drawn from the text's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000
FLIPS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over n texts with a bootstrap interval of the given level.

    undefined: texts for which the quantity is NaN; they are not in the mean. seeds: how many seeds
    each text's value is the mean of. NaN where no text is defined; no interval for fewer than 2.
    """

    value: float
    low: float
    high: float
    n: int
    undefined: int = 0
    seeds: int = 1
    level: float = LEVEL

    def __str__(self) -> str:
        if not self.n:
            return "–"
        bounds = f" [{self.low:.3f}, {self.high:.3f}]" if np.isfinite(self.low) else ""
        return f"{self.value:.3f}{bounds}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Running:
    """The means of several quantities over a stream of texts."""

    def __init__(
        self, quantities: int, *, seed: int = 0, resamples: int = RESAMPLES, seeds: int = 1
    ):
        self.seed, self.seeds = seed, seeds
        self.sums = np.zeros((resamples, quantities))
        self.weights = np.zeros((resamples, quantities))
        self.total, self.n = np.zeros(quantities), np.zeros(quantities, dtype=int)
        self.texts = 0

    def add(self, values: Float[np.ndarray, "quantities"]) -> None:
        """One text's values; NaN and infinity count as undefined."""
        values = np.asarray(values, dtype=np.float64)
        defined = np.isfinite(values)
        known = np.where(defined, values, 0.0)
        drawn = np.random.default_rng([self.seed, self.texts]).poisson(1.0, len(self.sums))
        self.sums += np.multiply.outer(drawn, known)
        self.weights += np.multiply.outer(drawn, defined)
        self.total += known
        self.n += defined
        self.texts += 1

    def means(self, level: float = LEVEL) -> list[Mean]:
        """A `Mean` a quantity, percentile intervals."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values, resampled = self.total / self.n, self.sums / self.weights
        return [
            self._mean(float(value), column, int(n), level)
            for value, column, n in zip(values, resampled.T, self.n)
        ]

    def difference(self, i: int, j: int, level: float = LEVEL) -> Mean:
        """Quantity i less quantity j: both come from the same resamples of the texts.

        n: the texts where both can be defined, the smaller of their two numbers.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(self.total[i] / self.n[i] - self.total[j] / self.n[j])
            resampled = self.sums / self.weights
        both = int(min(self.n[i], self.n[j]))
        return self._mean(value, resampled[:, i] - resampled[:, j], both, level)

    def _mean(self, value: float, resampled: np.ndarray, n: int, level: float) -> Mean:
        low = high = float("nan")
        drawn = resampled[np.isfinite(resampled)]  # a resample may hold no defined text
        if n >= 2 and len(drawn):
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist()
        return Mean(value, low, high, n, self.texts - n, self.seeds, level)


def mean(
    values: Sequence[float] | Float[np.ndarray, "texts"] | Float[np.ndarray, "seeds texts"],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Mean:
    """The mean over texts with its interval; (seeds, texts) is averaged over the seeds first.

    Texts, not seeds, are resampled: the interval says how much other texts would move the mean.
    """
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    running = Running(1, seed=seed, resamples=resamples, seeds=len(array))
    for one in array.mean(0):
        running.add(np.array([one]))
    return running.means(level)[0]


@dataclass(frozen=True)
class Difference:
    """The mean paired difference a - b over n texts, with a two-sided p-value.

    p: of the sign-flip permutation test. adjusted: after Holm's correction over the family of tests
    it was made in; equals p for a single test.
    """

    a: str
    b: str
    value: float
    n: int
    p: float
    adjusted: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Paired:
    """Paired sign-flip tests between all pairs of named methods, over a stream of texts.

    Under the null hypothesis a text's difference is as likely to have either sign (Fisher, 1935);
    p = (1 + flips at least as extreme) / (1 + flips).
    """

    def __init__(self, names: Sequence[str], *, seed: int = 0, flips: int = FLIPS):
        self.names, self.seed = list(names), seed
        self.first, self.second = np.triu_indices(len(self.names), 1)
        self.flipped = np.zeros((flips, len(self.first)))
        self.total, self.n = np.zeros(len(self.first)), np.zeros(len(self.first), dtype=int)
        self.texts = 0

    def add(self, values: Float[np.ndarray, "names"]) -> None:
        """One text's value for every method; a pair with an undefined value is left out."""
        values = np.asarray(values, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            difference = values[self.first] - values[self.second]
        defined = np.isfinite(difference)
        difference = np.where(defined, difference, 0.0)
        rng = np.random.default_rng([self.seed, self.texts])
        signs = rng.integers(0, 2, len(self.flipped), dtype=np.int8) * 2.0 - 1.0
        self.flipped += np.multiply.outer(signs, difference)
        self.total += difference
        self.n += defined
        self.texts += 1

    def tests(self) -> list[Difference]:
        """Every pair's difference; the p-values are corrected over all of them."""
        slack = 1e-12 * np.abs(self.total)  # the same sum in another order is not more extreme
        extreme = (np.abs(self.flipped) >= np.abs(self.total) - slack).sum(0)
        p = np.where(self.n > 0, (1 + extreme) / (1 + len(self.flipped)), np.nan)
        adjusted = holm(p)
        return [
            Difference(
                self.names[i], self.names[j],
                float(self.total[k] / self.n[k]) if self.n[k] else float("nan"),
                int(self.n[k]), float(p[k]), float(adjusted[k]),
            )
            for k, (i, j) in enumerate(zip(self.first, self.second))
        ]  # fmt: skip


def paired_test(
    a: Float[np.ndarray, "texts"], b: Float[np.ndarray, "texts"], *, seed: int = 0
) -> Difference:
    """One paired sign-flip test."""
    paired = Paired(["a", "b"], seed=seed)
    for row in np.stack([a, b], axis=1):
        paired.add(row)
    return paired.tests()[0]


def holm(p: Sequence[float] | Float[np.ndarray, "tests"]) -> Float[np.ndarray, "tests"]:
    """Holm's step-down correction (Holm, 1979) of p-values; NaN is no test and stays."""
    p = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * (len(order) - np.arange(len(order)))
    adjusted = p.copy()
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
