"""Progressive self-supervised attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=2,
    minutes=40,
    hints=(
        "The query of a hop is u M, a vector: scores are the rows of A[x] times it.",
        "Hide padding before the softmax; a sentence of which nothing is left gets zeros, not NaN.",
        "Words outside attention_mask cost nothing, however much attention they get.",
    ),
    questions=(
        "prove that (5) under sum alpha = 1 is least when attention is uniform on the active words",
        "find the input for which the released normalisation gives NaN",
        "write `mine` as one vectorised NumPy pass",
    ),
)
