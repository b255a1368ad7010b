"""Relative attention of the Music Transformer as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def skew_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n rows and as many columns or more; 0 where a distance is negative, so that X is 0 above
    the diagonal however its rows are moved."""
    columns = n + int(rng.integers(0, 4))
    R = rng.standard_normal((2, int(rng.integers(1, 3)), n, columns))
    ahead = np.arange(columns) < n - 1 - np.arange(n)[:, None]
    return {"R": np.where(ahead, 0.0, R)}


def table_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """A table, shared or per head, mostly longer than n, sometimes shorter."""
    M = int(rng.integers(n + 1, 3 * n + 2) if rng.random() < 0.8 else rng.integers(1, n + 1))
    heads = () if rng.random() < 0.5 else (2,)
    return {"E": rng.standard_normal((*heads, M, 3)), "n": n}


def weights_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Causal weights of n queries: 0 above the diagonal."""
    X = np.tril(rng.random((2, int(rng.integers(1, 3)), n, n)))
    return {"X": X / X.sum(axis=-1, keepdims=True)}


EXERCISE = Exercise(
    difficulty=3,
    minutes=45,
    prerequisites=("attention",),
    hints=(
        "A score gains q_i . e(i - j), one learned vector a distance. There are only n distances: "
        "multiply the queries with the short table first, and then move the numbers to their keys.",
        "The product of the queries with the table has one column a distance; row i must move left "
        "by n - 1 - i so that a column becomes a key. One padded column and one reshape do it. What "
        "then stands above the diagonal are other rows' numbers, not zeros.",
        "Take the table's last n rows, zero rows on the left where it is shorter: R = q E^T has "
        "distance n - 1 - c in column c. Pad a zero column on the left, read the numbers as "
        "(n + 1, n), drop the first row. Scale both products alike and mask before the softmax; for "
        "rel_v move the weights back by the inverse reshape.",
    ),
    parts=(
        Part("last_rows", "the table's rows for distances n-1 to 0", table_example),
        Part(
            "skew",
            "from columns that are distances to columns that are keys (tested on R that are 0 for "
            "negative distances)",
            skew_example,
        ),
        Part("unskew", "the way back, for values of a distance", weights_example),
    ),
    mistakes=(
        Mistake(
            "reversed-table",
            "R = q @ last_rows(E, keys).swapaxes(-1, -2)",
            "R = q @ last_rows(E, keys)[..., ::-1, :].swapaxes(-1, -2)",
            "you read the distance table backwards: its last row is distance 0, the first one the "
            "longest distance",
        ),
        Mistake(
            "first-rows",
            "[..., -n:, :]",
            "[..., :n, :]",
            "you take the first rows of a table that is longer than the sequence; the near distances "
            "stand in the last ones",
        ),
        Mistake(
            "one-product-scaled",
            "S = scale * (q @ k.swapaxes(-1, -2) + skew(R))  # (1)",
            "S = scale * q @ k.swapaxes(-1, -2) + skew(R)",
            "only the product of queries and keys is scaled: the scale multiplies the relative "
            "scores, too",
        ),
        Mistake(
            "padded-on-the-right",
            "[(0, 0), (1, 0)])  # a zero column on the left",
            "[(0, 0), (0, 1)])",
            "your skew moves the rows by the wrong offset: look at the side on which the zero column "
            "is added",
        ),
        Mistake(
            "leftovers-seen",
            "np.where(np.tri(rows, keys, keys - rows, dtype=bool), S, -np.inf)",
            "S",
            "your queries see later keys: what the skew leaves above the diagonal are other rows' "
            "numbers, which a mask has to hide before the softmax",
        ),
    ),
    questions=(
        "prove X[i, j] = R[i, n-1-(i-j)] for skew",
        "derive the table's gradient as sums along diagonals and check it by finite differences",
        "local form: which (block, distance) pairs exist, and why 2b rows of the table suffice",
        "beyond the table the score gains 0; what changes if the farthest row is used instead?",
    ),
)
