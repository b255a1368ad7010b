"""The behaviour shift of instruction tuning as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def importance_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Importances of n tokens for n + 1 of the response, of very different size; one row may be all negative."""
    importance = rng.standard_normal((n, n + 1)) * 10.0 ** rng.integers(-3, 3, n + 1)
    if rng.random() < 0.3:
        importance[:, 0] = -np.abs(importance[:, 0])
    return {"importance": importance, "L": int(rng.choice([10, 12])), "eps": 1e-7}


def levels_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Levels 0..10 of n tokens; one token may never reach the cut."""
    levels = rng.integers(0, 11, (n, n + 2)).astype(float)
    if rng.random() < 0.3:
        levels[0] = 0
    p = float(rng.choice([1.0, 2.5, 4.0]))
    return {"levels": levels, "b": int(rng.choice([4, 7])), "p": p, "eps": 1e-7}


EXERCISE = Exercise(
    difficulty=3,
    minutes=75,
    prerequisites=("attention",),
    hints=(
        "One answer token at a time: which position predicts it, and by which ways does its "
        "probability depend on the embedding of a prompt token?",
        "bos stands at position 0, so the last prompt token, at position n, predicts y_1. "
        "d p_y / d logits = p_y (1_y - p): of the probability, not of its logarithm. The gradient "
        "reaches e_i as value, as key, and for the last prompt token as query and directly, too.",
        "With d_h = p_y (u_y - p u): d_A = v d_h; d_s = A (d_A - A . d_A) / sqrt(d); "
        "d_x = outer(A, d_h wo wv) + outer(d_s, q_r wk); d_x[r] += d_h + d_s k wq; "
        "I[i, j] = e_i . d_x[i]. Then levels by column, the cut at b, and sum / p-norm by row.",
    ),
    parts=(
        Part("quantise", "importances as levels 0..L, by response token", importance_example),
        Part("densities", "whether a token matters steadily or once", levels_example),
    ),
    mistakes=(
        Mistake(
            "gradient of the logarithm",
            old="d_h = prob[y] * (u[y] - prob @ u)",
            new="d_h = u[y] - prob @ u",
            says="Your importances are those of log p: they match when multiplied by p. The gradient "
            "of the probability itself is asked for, or rare tokens explode.",
        ),
        Mistake(
            "one position late",
            old="r = n + j  # the position",
            new="r = n + j + 1  # the position",
            says="You read each probability one position too late, where the token itself already "
            "stands. bos is at 0, so the last prompt token is at n and predicts the first answer.",
        ),
        Mistake(
            "keys forgotten",
            old=" + np.outer(d_s, q[r] @ wk)  # as value, as key",
            new="  # as value",
            says="Your gradient reaches prompt tokens as values only. They are keys too: changing "
            "one moves the attention itself.",
        ),
        Mistake(
            "one maximum for all",
            old="(positive.max(axis=0) + eps)",
            new="(positive.max() + eps)",
            says="Your levels are relative to the largest importance of the whole table. Each "
            "response token has a scale of its own: the maximum of its column.",
        ),
        Mistake(
            "negatives kept",
            old="positive = np.maximum(importance, 0)",
            new="positive = np.abs(importance)",
            says="Your levels count tokens that lower the probability, too. What is negative has "
            "level 0.",
        ),
        Mistake(
            "no cut",
            old="l = np.where(levels <= b, 0, levels)",
            new="l = levels",
            says="Your densities include the low levels: everything up to b, b itself too, has to be "
            "set to 0 before the norms are taken.",
        ),
    ),
    questions=(
        "derive the m^{1 - 1/p} of a token that matters equally for m response tokens",
        "show that a token with levels 8, 9, 10, ... behaves as steady",
        "run the T backward passes as one batched call and compare",
    ),
)
