"""Pointer network as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def point_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n projected slots and one projected query, of width 1 to 6."""
    hidden = int(rng.integers(1, 7))
    query, v = rng.standard_normal((2, hidden))
    return {"K": rng.standard_normal((n, hidden)), "query": query, "v": 2 * v}


def scores_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Scores of n slots, often so large or so small that their exponentials leave float64."""
    offset = rng.choice([0.0, 800.0, -800.0, 2e4, -2e4])
    return {"u": offset + rng.choice([1.0, 30.0]) * rng.standard_normal(n)}


EXERCISE = Exercise(
    difficulty=2,
    minutes=35,
    prerequisites=("attention",),
    hints=(
        "Nothing is averaged here: the softmax over the positions of the input is the answer "
        "itself, a distribution that is as long as the input.",
        "A slot's score compares its state with the decoder's: project both, add them, squash the "
        "sum and let v weigh what comes out. The slots' projections are the same at every step. "
        "Padding is no slot: it takes no part in the softmax, and padded steps none in the loss.",
        "K = enc W1 and q = dec W2, with the matrices on the right; u_j = tanh(K_j + q) . v over "
        "the first enc_len slots; log p = u - max u - log of the summed exponentials. The loss is "
        "one mean of -log p[target] over all real steps of the whole batch.",
    ),
    parts=(
        Part("point", "the scores of one step over all slots", point_example),
        Part("log_softmax", "scores to log-probabilities, however large", scores_example),
    ),
    mistakes=(
        Mistake(
            "linear-score",
            "return np.tanh(K + query) @ v",
            "return (K + query) @ v",
            "your scores match without the tanh; then the query adds the same number to every slot "
            "and the softmax cannot see it",
        ),
        Mistake(
            "squashed-too-late",
            "return np.tanh(K + query) @ v",
            "return np.tanh((K + query) @ v)",
            "your tanh acts on the finished score; it belongs to each hidden unit, before v weighs "
            "them",
        ),
        Mistake(
            "transposed-weights",
            "enc[b, :n] @ W1, dec[b, :steps] @ W2",
            "enc[b, :n] @ W1.T, dec[b, :steps] @ W2.T",
            "your scores match with W1 and W2 transposed: states are rows, and the matrices stand on "
            "their right as they are",
        ),
        Mistake(
            "padding-in-softmax",
            "log_p = log_softmax(scores[b, t, :n])",
            "log_p = log_softmax(scores[b, t])[:n]",
            "padded slots take a share of your softmax: only the first enc_len slots of an item are "
            "real",
        ),
        Mistake(
            "one-based-target",
            "-log_p[target[b, t]]",
            "-log_p[target[b, t] - 1]",
            "your loss reads the slot before the target: targets are slot numbers, and slot 0 counts",
        ),
        Mistake(
            "overflow",
            "shifted = u - u.max()",
            "shifted = u",
            "large scores overflow: a constant taken off all of them leaves the softmax as it is",
        ),
    ),
    questions=(
        "sort numbers with a pointer",
        "masked beam search",
        "shuffle the input points and compare the outputs: the encoder reads an order",
        "replace the additive score by a dot product and time both",
    ),
)
