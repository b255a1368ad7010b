"""Scaled dot-product attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=1,
    minutes=25,
    hints=(
        "One einsum gives all scores: contract the width of q and k, keep both positions.",
        "Divide by sqrt(dim) and hide what the mask forbids with -inf before the softmax.",
        "Subtract each row's maximum before exp, and give rows that see nothing the output 0, not NaN.",
    ),
)
