"""MoH: attention as a mixture of heads as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def largest_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Probabilities of n tokens over 1 to 6 heads, often with ties; K from 0 to all of them."""
    heads = int(rng.integers(1, 7))
    p = rng.dirichlet(np.ones(heads), n)
    p = np.round(p, 1) if rng.random() < 0.5 else p
    return {"p": p, "K": int(rng.integers(0, heads + 1))}


def routed_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n tokens and a router over 3 to 6 heads, of which 2 or more are chosen, at times all."""
    heads, channels = int(rng.integers(3, 7)), int(rng.integers(1, 6))
    return {
        "x": rng.standard_normal((int(rng.integers(1, 3)), n, channels)),
        "W_r": rng.standard_normal((heads, channels)),
        "K": int(rng.integers(2, heads + (rng.random() < 0.15))),
    }


def gates_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n tokens and both routers: 2 or 3 shared heads beside 2 to 4 routed ones; seldom one kind."""
    shared, routed, channels = int(rng.integers(2, 4)), int(rng.integers(2, 5)), 5
    weights = {
        "W_r": rng.standard_normal((routed, channels)),
        "W_s": rng.standard_normal((shared, channels)),
        "W_h": rng.standard_normal((2, channels)),
    }
    top_k = int(rng.integers(1, routed + 1))
    alone = rng.random()
    if alone < 0.1:  # routed heads alone
        shared, weights = 0, {"W_r": weights["W_r"]}
    elif alone < 0.2:  # shared heads alone
        routed, top_k, weights = 0, 0, {"W_s": weights["W_s"]}
    x = rng.standard_normal((int(rng.integers(1, 3)), n, channels))
    return {"x": x, "n_head": shared + routed, "n_shared": shared, "top_k": top_k} | weights


EXERCISE = Exercise(
    difficulty=3,
    minutes=45,
    prerequisites=("attention",),
    hints=(
        "Write multi-head attention as a sum over heads, each with the factor 1. Here the factor is "
        "a number that the query's token chooses, and 0 for most heads. Nothing else changes.",
        "Three softmaxes over x: one over the routed heads, of which the largest stay, one over the "
        "shared heads, one over the two groups. Each is scaled so that an untrained gate is near 1. "
        "The load balance looks at the routed softmax as it was before any head was dropped.",
        "Renormalise the chosen p of a token to sum to top_k, multiply the shared softmax by "
        "n_shared (a single shared head is 1) and the groups' by 2. Gate every head's output, then "
        "merge and project. aux is the routed heads' number times the sum of f_e P_e, f the mean of "
        "the choice and P the mean of p over all tokens of the batch.",
    ),
    parts=(
        Part("largest", "which heads are chosen: the K largest of each row", largest_example),
        Part("routed_gates", "gates of the routed heads and the load balance", routed_example),
        Part("gates", "shared and routed heads together", gates_example),
    ),
    mistakes=(
        Mistake(
            "no-top-k-factor",
            "r = K * r / np.maximum(",
            "r = r / np.maximum(",
            "your routed gates of a token sum to 1: multiply them by top_k, so that an untrained "
            "gate is near 1 and the output keeps its scale",
        ),
        Mistake(
            "no-group-factor",
            "a = 2 * softmax(x @ W_h.T)",
            "a = softmax(x @ W_h.T)",
            "your gates are half as large as they should be where shared and routed heads are both "
            "on: the balance of the two groups sums to 2",
        ),
        Mistake(
            "not-renormalised",
            "r = K * r / np.maximum(r.sum(axis=-1, keepdims=True), np.finfo(x.dtype).eps)",
            "r = K * r",
            "your routed gates keep the share of the heads that were dropped: the chosen ones must "
            "be renormalised among themselves",
        ),
        Mistake(
            "load-after-choice",
            "p.mean(axis=(0, 1))).sum()",
            "r.mean(axis=(0, 1))).sum()",
            "your load balance uses the gates: P_e is the mean of the softmax itself, before heads "
            "are dropped and renormalised",
        ),
        Mistake(
            "least-probable",
            "np.argsort(-p, axis=-1, kind",
            "np.argsort(p, axis=-1, kind",
            "your tokens choose their least probable heads: look at the direction of the sort",
        ),
    ),
    questions=(
        "prove that concatenating and projecting is a sum over heads",
        "gather the queries of each head, attend, and scatter the results; does it save time?",
        "show that one head cannot serve all types of claim 1's task, and a mixture can",
        "gate the keys' tokens instead of the queries': what would a gate then mean?",
    ),
)
