"""HyperAttention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def bucket_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n rows and 3 to 7 hash directions, seldom none; at times all rows are equal or one is 0."""
    x = rng.standard_normal((2, 2, n, 4))
    if rng.random() < 0.2:
        x[:] = x[:, :, :1]
    x[0, 0, 0] *= rng.random() < 0.7
    return {"x": x, "P": rng.standard_normal((4, 0 if rng.random() < 0.1 else rng.integers(3, 8)))}


def merge_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Two attentions of n rows; the sums behind them may be huge, tiny, or (the second) 0."""
    a1, a2 = rng.standard_normal((2, 2, 2, n, 3))
    l1, l2 = rng.choice([0.0, 1000.0, -1000.0]) + 2 * rng.standard_normal((2, 2, 2, n, 1))
    l2[rng.random(l2.shape) < 0.1] = -np.inf
    return {"a1": a1, "l1": l1, "a2": a2, "l2": l2}


def residual_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n queries, as many keys or more, fewer samples than keys (n > 1); some hidden, not the first."""
    keys = n + int(rng.integers(0, 4))
    samples = int(rng.integers(1, max(keys, 2)))
    hidden = rng.random((2, 2, n, samples)) < 0.3
    hidden[..., 0] = False
    k, v = rng.standard_normal((2, 2, 2, keys, 3))
    return {
        "q": rng.standard_normal((2, 2, n, 3)),
        "k": k,
        "v": v,
        "idx": rng.integers(0, keys, (2, 2, samples)),
        "hidden": hidden,
        "scale": float(rng.choice([0.3, 1.0])),
    }


EXERCISE = Exercise(
    difficulty=4,
    minutes=90,
    hints=(
        "An attention over some of the keys can be joined with one over the others, if each keeps "
        "the logarithm of its row sums beside its output. So large entries may be computed exactly "
        "in one place and the many small ones estimated in another.",
        "Hash queries and keys alike, sort both stably by bucket and attend block t to block t; put "
        "the queries back in their order at the end, which keys do not need. A few sampled columns "
        "stand for all keys, so each counts keys/S times; a block's own columns are hidden among "
        "them, as the block has counted them. A causal mask: two half-sized triangles and a square "
        "without a mask.",
        "bucket = id ^ (id >> 1) of the bits x . P > 0. merge: l = logaddexp(l1, l2), c = "
        "exp(l1 - l), c a1 + (1 - c) a2. Residual: attention to k[idx], its lse plus log(keys/S). "
        "Un-sort with an array in which place sort_q[t] holds t. Causal: fold the halves into the "
        "heads and recurse, then merge the square into the second half's rows.",
    ),
    prerequisites=("attention",),
    parts=(
        Part("bucket", "numbers of the rows' buckets", bucket_example),
        Part("merge", "two attentions over different keys become one", merge_example),
        Part("residual", "sampled columns that stand for all keys", residual_example),
    ),
    mistakes=(
        Mistake(
            "no-gray-code",
            "return number ^ (number >> 1)",
            "return number",
            "your buckets are the plain binary numbers: the Gray code of their bits is still to come",
        ),
        Mistake(
            "merged-without-sums",
            "c = np.exp(l1 - lse)",
            "c = 0.5 + np.zeros_like(lse)",
            "you average two attentions: each must count by its row sum, whose logarithm stands in "
            "its lse",
        ),
        Mistake(
            "merged-crosswise",
            "c = np.exp(l1 - lse)",
            "c = np.exp(l2 - lse)",
            "your merge gives each output the other one's share",
        ),
        Mistake(
            "sample-weight-inverted",
            "lse + math.log(keys / samples)",
            "lse - math.log(keys / samples)",
            "your samples count S/keys times instead of keys/S times: look at the sign of the "
            "logarithm",
        ),
        Mistake(
            "sample-weight-missing",
            "return out, lse + math.log(keys / samples)",
            "return out, lse",
            "your samples count once each, but S of them stand for all keys: their row sums are too "
            "small",
        ),
        Mistake(
            "not-unsorted",
            "np.put_along_axis(back, sort_q, np.arange(n)[:, None], 2)",
            "back[:] = np.arange(n)[:, None]",
            "your rows come out in sorted order: put the queries back where they came from",
        ),
    ),
    questions=(
        "prove that a merge is exact when the two sets of keys are disjoint",
        "two unit vectors at angle t: with what probability does a bit of their hashes agree?",
        "draw the tree of the causal recursion and count the pairs in its exact leaves",
        "sort by the inverse Gray code instead and count the bits in which neighbours differ",
    ),
    # The example's blocks and samples are small, so that growth is plain long before the card's
    # holds_from, which speaks of the defaults.
    exponent=1.1,
)
