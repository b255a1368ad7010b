"""Exponents, crossovers and ratios, each with its 95 % interval.

    exponent([1024, 2048, 4096, 8192], seconds)   -> Exponent(slope=1.98, low=1.95, high=2.01, r2=…)

Times may be one number a size or a list of raw samples (their median counts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Times = Sequence[float] | Sequence[Sequence[float]]
RESAMPLES = 2000
# Fewer samples say nothing about their spread.
ENOUGH = 3
# An exponent agrees with a claim within this much; interval and margin together give the verdict.
MARGIN = 0.15
# A fit uses the sizes within this factor of the largest: growth laws are about large n.
TAIL = 16


class Exponent(NamedTuple):
    """Slope of log time over log size; low and high bound its 95 % interval."""

    slope: float
    low: float
    high: float
    r2: float


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Crossover(NamedTuple):
    """From which size something is faster: `where` is "always", "never" or "at" (then n is set)."""

    where: Literal["always", "never", "at"]
    n: Interval | None
    speedup: Interval  # baseline / candidate at the largest common size
    largest: int


def _medians(times: Times) -> np.ndarray:
    return np.array([np.median(t) for t in times], dtype=float)


def exponent(sizes: Sequence[float], times: Times) -> Exponent:
    """Least squares of log time on log size, interval by Student's t over the residuals.

    With two sizes the interval is infinite, with one everything is NaN. Raises ValueError for
    sizes or times that are not positive, or of different number.
    """
    x, y = np.asarray(sizes, dtype=float), _medians(times)
    if x.shape != y.shape:
        raise ValueError(f"{x.size} sizes but {y.size} times")
    if not ((x > 0).all() and (y > 0).all()):
        raise ValueError("sizes and times must be positive")
    if np.unique(x).size < 2:
        return Exponent(*(math.nan,) * 4)
    x, y = np.log(x), np.log(y)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    rest = y - slope * x
    r2 = 1 - float(rest @ rest / (y @ y)) if y @ y > 0 else 1.0
    freedom = x.size - 2
    if freedom == 0:
        return Exponent(slope, -math.inf, math.inf, r2)
    from scipy.special import stdtrit  # Student's t quantile, without all of scipy.stats

    half = float(stdtrit(freedom, 0.975) * np.sqrt(rest @ rest / freedom / (x @ x)))
    return Exponent(slope, slope - half, slope + half, r2)


def tail(sizes: Sequence[int], usable: Sequence[bool] | None = None) -> list[int]:
    """Indices of the points a fit should use: usable ones within TAIL of the largest, at least the
    last three usable ones where there are so many."""
    ordered = sorted(range(len(sizes)), key=lambda i: sizes[i])
    kept = [i for i in ordered if usable is None or usable[i]]
    near = [i for i in kept if sizes[i] * TAIL >= sizes[kept[-1]]]
    return near if len(near) >= 3 else kept[-3:]


def verdict(
    fitted: Exponent, claim: float, margin: float = MARGIN
) -> Literal["PASS", "FAIL", "below", "undecided"]:
    """What the interval says of a claimed exponent.

    PASS: all of it is within `margin` of the claim. FAIL: all of it is above, growth is faster than
    claimed. below: all of it is under, which fixed costs do at sizes that are still small.
    """
    if not (math.isfinite(fitted.low) and math.isfinite(fitted.high)):
        return "undecided"
    if abs(fitted.low - claim) <= margin and abs(fitted.high - claim) <= margin:
        return "PASS"
    if fitted.low > claim + margin:
        return "FAIL"
    return "below" if fitted.high < claim - margin else "undecided"


def resampled_medians(samples: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """(RESAMPLES,) medians of bootstrap samples."""
    values = np.asarray(samples, dtype=float)
    return np.median(values[rng.integers(0, values.size, (RESAMPLES, values.size))], axis=1)


def ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Interval:
    """median(above) / median(below), with its bootstrap interval over the raw samples; from fewer than
    three samples the interval is everything."""
    if min(len(above), len(below)) < ENOUGH:
        return Interval(float(np.median(above) / np.median(below)), 0.0, math.inf)
    rng = np.random.default_rng(seed)
    drawn = resampled_medians(above, rng) / resampled_medians(below, rng)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(np.median(above) / np.median(below)), float(low), float(high))


def crossover(
    sizes: Sequence[int],
    candidate: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    seed: int = 0,
) -> Crossover:
    """From which size on the candidate is faster than the baseline, at all larger sizes measured.

    Between two sizes the ratio of times is a power law: the crossing is interpolated on log-log
    axes. Its interval is a bootstrap over raw samples; an end beyond the sizes measured is 0 or inf.
    """
    order = np.argsort(sizes)
    n = np.asarray(sizes, dtype=float)[order]
    cand, base = [candidate[i] for i in order], [baseline[i] for i in order]
    rng = np.random.default_rng(seed)
    gap = np.log(_medians(cand)) - np.log(_medians(base))  # < 0: the candidate is faster
    found = _crossing(np.log(n), gap)
    speedup = ratio(base[-1], cand[-1], seed)
    if found in (-math.inf, math.inf):
        return Crossover("always" if found < 0 else "never", None, speedup, int(n[-1]))
    drawn = np.log(
        [resampled_medians(c, rng) / resampled_medians(b, rng) for c, b in zip(cand, base)]
    )
    places = np.sort([_crossing(np.log(n), column) for column in drawn.T])
    low, high = (places[round(q * (RESAMPLES - 1))] for q in (0.025, 0.975))
    if min(map(len, (*cand, *base))) < ENOUGH:
        low, high = -math.inf, math.inf
    with np.errstate(over="ignore"):
        at = Interval(*(float(np.exp(v)) for v in (found, low, high)))
    return Crossover("at", at, speedup, int(n[-1]))


def _crossing(x: np.ndarray, gap: np.ndarray) -> float:
    """Where gap last turns from >= 0 to < 0; -inf where it is always below 0, inf where it ends above."""
    if gap[-1] >= 0:
        return math.inf
    above = np.flatnonzero(gap >= 0)
    if above.size == 0:
        return -math.inf
    i = above[-1]
    return float(x[i] + (x[i + 1] - x[i]) * gap[i] / (gap[i] - gap[i + 1]))
