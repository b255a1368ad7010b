"""ACT: attention calibration as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def sinks_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Column means of 6 heads, about a third of them above the threshold, token 0 in some heads
    and not in others; half of the heads are left alone."""
    mean = rng.random((6, n))
    mean[:, 0] = np.where(rng.random(6) < 0.4, 0.9, 0.1)
    edited = rng.permutation(6) < 3
    alpha = float(n * rng.uniform(0.5, 0.7)) if rng.random() < 0.5 else None
    threshold = float(rng.uniform(0.5, 0.7))
    return {"mean": mean, "threshold": threshold, "alpha": alpha, "edited": edited}


def move_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n rows over n keys that sum to 1 in 3 heads; in the first one every key is a sink."""
    A = rng.dirichlet(np.ones(n), (3, n))
    sinks = rng.random((3, n)) < 0.4
    sinks[0] = True
    sinks[2, [0, -1]] = True, False
    return {"A": A, "sinks": sinks, "beta": float(rng.choice([0.0, 0.4, 0.7, 0.9]))}


EXERCISE = Exercise(
    difficulty=2,
    minutes=40,
    prerequisites=("attention",),
    hints=(
        "A sink is a key that receives much attention on average. The edit takes a share of it away, "
        "in every row, and gives that to the row's other keys; a row's sum stays as it was.",
        "A late key is seen by few queries, so its mean divides by their number. Detect first, then "
        "spare the first detected key, whichever it is, and only then edit. What is given back is "
        "shared out in proportion to the weights of the keys that are no sinks.",
        "Column sums over n - t; a cumulative sum of the detected keys is 1 at the one to spare. With "
        "free = (1 - beta) times a row's mass on sinks and rho its mass elsewhere, sinks become "
        "beta a and all others a (1 + free / rho); a row with rho = 0 stays.",
    ),
    parts=(
        Part("later_sinks", "which keys are calibrated", sinks_example),
        Part("move", "rows whose sinks give weight to the other keys", move_example),
    ),
    mistakes=(
        Mistake(
            "mean-over-all-rows",
            "mean = A.sum(axis=1) / visible.astype(A.dtype)  # (1)",
            "mean = A.mean(axis=1)",
            "your column means divide by n; key t is seen by n - t queries only, and late sinks are "
            "missed",
        ),
        Mistake(
            "first-sink-edited",
            "return sinks & ~first & edited[:, None]",
            "return sinks & edited[:, None]",
            "you calibrate the first sink of a head, too: the paper leaves that one alone",
        ),
        Mistake(
            "token-0-spared",
            "first = np.cumsum(sinks, axis=1) == 1",
            "first = np.arange(sinks.shape[1]) == 0",
            "you spare token 0; what is spared is the first key that was detected, which may be a "
            "later one",
        ),
        Mistake(
            "all-heads-edited",
            "return sinks & ~first & edited[:, None]",
            "return sinks & ~first",
            "you calibrate heads that were not asked for: `heads` names those that may change",
        ),
        Mistake(
            "row-renormalised",
            "return np.where(rho > 0, beta * on_sinks + R + free * R / np.where(rho > 0, rho, 1), A)",
            "kept = beta * on_sinks + R\n"
            "    total = kept.sum(axis=-1, keepdims=True)\n"
            "    return np.where(rho > 0, kept / np.where(total > 0, total, 1), A)",
            "you divide the whole row by its new sum: the sinks then get part of the freed mass back "
            "and keep more than beta of their weight",
        ),
        Mistake(
            "mass-lost",
            "R + free * R / np.where(rho > 0, rho, 1)",
            "R",
            "your rows no longer sum to 1: the mass taken from the sinks must go to the row's other "
            "keys",
        ),
    ),
    questions=(
        "prove that rows still sum to 1",
        "the streaming form over a key-value cache",
        "compare with a logit bias log(beta) followed by renormalising: when do they differ?",
        "why can a one-pass kernel with an online softmax not do this?",
    ),
)
