"""Scaled dot-product attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def softmax_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Scores of n queries, hidden keys among them; one query sees no key at all (n > 1). The second
    half of the scores is so large that their exponentials leave float64."""
    keys = n + int(rng.integers(0, 3))
    seen = rng.random((n, keys)) < rng.choice([0.3, 0.7])
    seen[int(rng.integers(n))] = n == 1
    S = rng.standard_normal((2, n, keys))
    S[1] *= 2000
    return {"S": S, "seen": seen}


EXERCISE = Exercise(
    difficulty=1,
    minutes=25,
    hints=(
        "A query's output is an average of the values. What decides a value's share is how well its "
        "key agrees with the query; shares are positive and add up to 1 over the keys.",
        "Three steps: all scores of all queries in one product, a softmax along the keys, one more "
        "product with the values. A hidden key must have left before the softmax adds anything up. "
        "Where there are fewer key heads than query heads, neighbouring query heads share one.",
        "np.repeat k and v along the heads; S = einsum of q and k times the scale, plus the bias; "
        "-inf where a key is hidden (np.tri(n, keys, keys - n) for causal). Subtract each row's "
        "maximum before exp, and let a row without any key become 0, not NaN.",
    ),
    parts=(Part("softmax", "the softmax of rows in which some keys are hidden", softmax_example),),
    mistakes=(
        Mistake(
            "unscaled",
            "q, k) * (dim**-0.5 if scale is None else scale)",
            "q, k)",
            "your scores look unscaled: they match without `scale`, which is 1/sqrt(dim) where the "
            "caller gives none",
        ),
        Mistake(
            "divided-by-dim",
            "(dim**-0.5 if scale is None else scale)",
            "(1 / dim if scale is None else scale)",
            "your scores are divided by dim: without `scale` it is the square root, 1/sqrt(dim)",
        ),
        Mistake(
            "scaled-bias",
            "S = S + bias",
            "S = S + bias * (dim**-0.5 if scale is None else scale)",
            "you scale the bias with the scores: it is added to what is scaled already",
        ),
        Mistake(
            "mask-inverted",
            "seen = seen & mask",
            "seen = seen & ~mask",
            "you hide what the mask shows: True means that the query may see the key",
        ),
        Mistake(
            "one-key-ahead",
            "np.tri(n, keys, keys - n, dtype=bool)",
            "np.tri(n, keys, keys - n + 1, dtype=bool)",
            "your causal mask lets every query see one key too many: its own position is the last",
        ),
        Mistake(
            "own-key-hidden",
            "np.tri(n, keys, keys - n, dtype=bool)",
            "np.tri(n, keys, keys - n - 1, dtype=bool)",
            "your causal mask hides one key too many: a query sees its own position, too",
        ),
        Mistake(
            "aligned-left",
            "np.tri(n, keys, keys - n, dtype=bool)",
            "np.tri(n, keys, dtype=bool)",
            "your causal mask takes the queries for the first ones: where there are more keys, they "
            "are the last (j <= i + keys - n)",
        ),
        Mistake(
            "heads-dealt-out",
            "np.repeat(x, groups, axis=1)",
            "np.tile(x, (1, groups, 1, 1))",
            "your key heads are dealt out one by one: neighbouring query heads share one (np.repeat, "
            "not np.tile)",
        ),
        Mistake(
            "overflow",
            "np.where(np.isfinite(top), top, 0)",
            "0",
            "large scores overflow: take each row's maximum off before exp, which changes no weight",
        ),
        Mistake(
            "softmax-over-queries",
            "A = softmax(S, seen)",
            "A = softmax(S.swapaxes(-1, -2), seen.swapaxes(-1, -2)).swapaxes(-1, -2)",
            "your softmax runs along the queries: the columns of your weights sum to 1, but it is "
            "each query's row that must",
        ),
        Mistake(
            "hidden-as-zero",
            "S = np.where(seen, S, -np.inf)",
            "S = np.where(seen, S, 0)",
            "hidden keys still get weight: a score of 0 is not nothing, as exp(0) is 1; look at "
            "what you put in place of a hidden score",
        ),
        Mistake(
            "masked-too-late",
            "    S = np.where(seen, S, -np.inf)\n",
            "    if not np.all(seen):\n"
            "        return np.where(seen, softmax(S, np.ones_like(S, bool)), 0)\n",
            "you hide keys after the softmax: what they took is missing, and your rows sum to less "
            "than 1; hide them before anything is added up",
        ),
        Mistake(
            "blind-row",
            "return P / np.where(total > 0, total, 1)",
            "return P / total",
            "a query that sees no key at all gives NaN: its row is divided by 0; its weights and its "
            "output are to be 0",
        ),
    ),
    questions=(
        "show that a constant added to a row of scores changes nothing, and why one is subtracted",
        "why 1/sqrt(dim)? find the variance of q . k for independent normal entries",
        "attend in tiles of keys, keeping only a maximum, a sum and an output for each row",
    ),
)
