"""BASED: Taylor linear attention with a sliding window as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def map_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n rows of width 2 to 5, seldom 1; a row of zeros among them at times."""
    x = rng.standard_normal((2, n, 1 if rng.random() < 0.1 else rng.integers(2, 6)))
    x[0, 0] *= rng.random() < 0.7
    return {"x": x}


def weights_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n queries and keys of width 2 to 5, seldom 1; large scores of either sign at times."""
    shape = (2, 2, n, 1 if rng.random() < 0.1 else rng.integers(2, 6))
    q, k = rng.choice([1.0, 4.0]) * rng.standard_normal((2, *shape))
    return {"q": q, "k": k}


EXERCISE = Exercise(
    difficulty=3,
    minutes=50,
    hints=(
        "exp(s) is replaced by the first three terms of its series. That polynomial is an inner "
        "product of features of q and of k, so that the past can be summed into one matrix that no "
        "longer grows.",
        "Project first and compare then: s = q.k / sqrt(d') with d' the feature dimension, not the "
        "width of the model or the values. Weights of later keys are 0 and a row is divided by its "
        "sum. phi(q).phi(k) must give the same weights: a one, the entries, all products of two.",
        "np.tril(1 + s + s^2/2), rows over their sum + eps. phi = [1, x / d'^(1/4), x_i x_j / "
        "sqrt(2 d') row by row], 1 + d' + d'^2 entries. kv_state sums v phi(k)^T, value index "
        "first, k_state sums phi(k); each token of x_next adds its own before it reads both.",
    ),
    prerequisites=("attention", "lightning"),
    parts=(
        Part("taylor_weights", "weights of the earlier keys, not yet normalised", weights_example),
        Part("taylor_map", "the features whose inner product is the polynomial", map_example),
    ),
    mistakes=(
        Mistake(
            "no-half",
            "np.tril(1 + s + s**2 / 2)",
            "np.tril(1 + s + s**2)",
            "your weights match without the 1/2: the series of exp has s^2/2",
        ),
        Mistake(
            "unscaled",
            "q, k) / q.shape[-1] ** 0.5",
            "q, k)",
            "your scores look unscaled: they match when divided by the square root of the feature "
            "dimension",
        ),
        Mistake(
            "sees-ahead",
            "np.tril(1 + s + s**2 / 2)",
            "1 + s + s**2 / 2",
            "your tokens see later ones: weights above the diagonal are to be 0, after the "
            "polynomial, which makes 1 of a 0",
        ),
        Mistake(
            "zeroed-too-early",
            "return np.tril(1 + s + s**2 / 2)",
            "s = np.tril(s)\n    return 1 + s + s**2 / 2",
            "later keys count with weight 1: you zero their scores, but the polynomial of 0 is 1",
        ),
        Mistake(
            "not-normalised",
            "v) / (a.sum(-1, keepdims=True) + eps)",
            "v)",
            "your rows are sums: divide each by the sum of its weights",
        ),
        Mistake(
            "no-root-of-two",
            "pairs / (2 * d) ** 0.5",
            "pairs / d**0.5",
            "the products in your features are too large by sqrt(2): phi(q).phi(k) then has s^2 in "
            "place of s^2/2",
        ),
    ),
    questions=(
        "pack the products so that each pair is stored once, and count the state",
        "turn the quadratic form into a recurrence, and that into blocks",
        "find the smallest feature dimension that solves associative recall with 8 pairs",
        "why may first-order features divide by almost 0, and these never?",
    ),
    # The reference is the authors' quadratic form; linear work needs the recurrence or blocks.
    exponent=2.0,
)
