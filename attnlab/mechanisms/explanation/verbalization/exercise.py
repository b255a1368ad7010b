"""Saliency map verbalization as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def normalize_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n attributions; most often the largest in size is negative."""
    a = rng.standard_normal(n)
    if rng.random() < 0.3:
        a = -np.abs(a)
    a[rng.integers(n)] = -4 - rng.random()
    return {"a": a}


def threshold_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n attributions, sometimes all equal, and a metric with a value that it allows."""
    a = rng.standard_normal(n)
    if rng.random() < 0.1:
        a[:] = a[0]
    metric = str(rng.choice(["mean", "quantile", "quantile", "variance", "variance"]))
    return {"a": a, "metric": metric, "value": max(0.4, 1 / n) if metric == "mean" else 1.2}


def find_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n + 6 attributions, more of them positive than not, and three filters of width 4."""
    return {
        "a": rng.standard_normal(n + 6) + 0.6,
        "filters": np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]]),
        "least": float(rng.choice([0.2, 0.7])),
        "sgn": ("+", None, "-")[int(rng.choice(3, p=[0.9, 0.05, 0.05]))],
        "behaviour": str(rng.choice(["released", "corrected"])),
    }


EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    hints=(
        "A snippet is a place and a pattern. Try every pattern at every place, and keep what is "
        "strong enough on average; the rest is bookkeeping.",
        "Tokens under a 0 of the filter may have any sign; only those under a 1 must not be "
        "negative. A snippet is found once for each filter that holds it, and counts once. Released, "
        "the window t = n-W is never tried, so that the last token is in no snippet.",
        "For each filter f and t < n - W: seen = f * a[t:t+W]; if none is negative and "
        "seen.sum() / f.sum() > threshold, hits[tuple of indices] = that mean. Sort the dictionary's "
        "items in falling order; pad index lists with -1.",
    ),
    parts=(
        Part(
            "normalize",
            "attributions relative to the largest, in float32 precision",
            normalize_example,
        ),
        Part("threshold", "the mean that a snippet has to exceed", threshold_example),
        Part("find", "all snippets that the filters find in one text", find_example),
    ),
    mistakes=(
        Mistake(
            "largest in size",
            old="np.abs(a.max().astype(np.float64))",
            new="np.abs(a.astype(np.float64)).max()",
            says="Your attributions are divided by the largest in size. It is the largest signed "
            "value that counts, then without its sign.",
        ),
        Mistake(
            "mean over the window",
            old="/ int(f.sum())",
            new="/ W",
            says="Your snippets' means are too small: the sum is over the tokens under a 1 of the "
            "filter, and so has to be the number it is divided by.",
        ),
        Mistake(
            "gaps must be positive",
            old='(sgn == "+" and (seen < 0).any())',
            new='(sgn == "+" and (a[t : t + W] < 0).any())',
            says="You drop snippets for negative tokens in their gaps. Under a 0 of the filter a "
            "token may have any sign.",
        ),
        Mistake(
            "rising order",
            old="return sorted(hits.items(), reverse=True)",
            new="return sorted(hits.items())",
            says="Your snippets come in rising order. Their index lists are to fall, compared like "
            "words in a dictionary.",
        ),
        Mistake(
            "sample variance",
            old="variance = sum(((a - mean) ** 2).tolist()) / len(a)",
            new="variance = sum(((a - mean) ** 2).tolist()) / max(len(a) - 1, 1)",
            says="Your threshold uses the sample variance, divided by n - 1. The population's is "
            "meant, divided by n.",
        ),
    ),
    questions=(
        "an input for which the released summary lies",
        "all filters at once: windows times a bank of patterns, signs by the same product",
        "a `complete(prompt)` of your own, and its coverage@k",
    ),
)
