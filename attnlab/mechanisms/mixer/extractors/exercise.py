"""Extractors: SHE, HE, WE and ME as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def table_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n rows of width 2 to 4 and a table of matrices, vectors or numbers, often longer than n."""
    dim, L = int(rng.integers(2, 5)), n + int(rng.integers(0, 3))
    entry = [(dim, dim), (dim,), ()][rng.integers(3)]
    v = rng.standard_normal((int(rng.integers(1, 3)), n, dim))
    return {"v": v, "table": rng.standard_normal((L, *entry))}


EXERCISE = Exercise(
    difficulty=2,
    minutes=35,
    hints=(
        "Nothing is compared here. Every earlier token is changed by a weight that its place has "
        "learned, the results are added up, and the current token decides what passes.",
        "When a place is counted from the start, the weight belongs to a token for good: transform "
        "every token once and keep a running sum. When it is counted from the current token, the "
        "same weight meets all pairs of one distance: go through the distances. Distance 0 is the "
        "token itself.",
        "By lag: e[:, lag:] += x[:, : n - lag] weighted by table[lag]. By place: cumsum of x_j "
        "weighted by table[j]. Row t (from 0) of the sum times a_t, which comes from the current "
        "token and not from the sum, over sqrt(t + 1).",
    ),
    prerequisites=("attention",),
    parts=(
        Part("by_place", "the sum with weights counted from the start", table_example),
        Part("by_lag", "the sum with weights counted from the current token", table_example),
    ),
    mistakes=(
        Mistake(
            "running-sum-of-lags",
            "    e = np.zeros_like(v)\n    for lag",
            "    return by_place(v, table)\n    for lag",
            "you keep a running sum for weights by lag: that is right for places counted from the "
            "start alone, where a token's weight does not change as time goes on",
        ),
        Mistake(
            "current-token-missing",
            "for lag in range(n):",
            "for lag in range(1, n):",
            "the current token is missing from your sum: lag 0 is its own place",
        ),
        Mistake(
            "table-backwards",
            "past @ table[lag] if table.ndim == 3 else past * table[lag]",
            "past @ table[n - 1 - lag] if table.ndim == 3 else past * table[n - 1 - lag]",
            "you read the table backwards: its first entry belongs to the current token",
        ),
        Mistake(
            "adjusted-by-the-sum",
            'a = x * w_adj if kind == "ME" else x @ W_adj',
            'a = e * w_adj if kind == "ME" else e @ W_adj',
            "your adjustment is made of the sum: it is a map of the current token",
        ),
        Mistake(
            "added-adjustment",
            "y = e * a",
            "y = e + a",
            "you add the adjustment: it multiplies the sum, element by element",
        ),
        Mistake(
            "no-root",
            "y / np.sqrt(np.arange(1, x.shape[1] + 1, dtype=x.dtype))[:, None]",
            "y / np.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]",
            "your rows are divided by t + 1: they match with the square root of it",
        ),
    ),
    questions=(
        "write the WE by lag as a Toeplitz matrix and as a convolution by FFT",
        "show that the ME with w[l] = lambda^l is linear attention with decay and without keys",
        "which of the four can copy the token seen k steps ago?",
        "how does the variance of y_t grow with t, with and without the square root?",
    ),
)
