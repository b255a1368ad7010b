"""The behaviour shift of instruction tuning as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    prerequisites=("attention",),
    hints=(
        "bos stands at position 0, so the last prompt token, at position n, predicts y_1.",
        "d p_y / d logits = p_y (1_y - p): of the probability, not of its logarithm.",
        "The gradient reaches e_i through the values, through the scores, and for the last prompt "
        "token through the query and the residual too.",
    ),
    questions=(
        "derive the m^{1 - 1/p} of a token that matters equally for m response tokens",
        "show that a token with levels 8, 9, 10, ... behaves as steady",
        "run the T backward passes as one batched call and compare",
    ),
)
