"""Saliency map verbalization as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=50,
    prerequisites=("attention",),
    hints=(
        "The window t = n-W is never tried, so that the last token is in no snippet.",
        "A snippet is found once for each filter that holds it: put its index list in a dictionary.",
        "Tokens under a 0 of the filter may have any sign; only those under a 1 must not be negative.",
    ),
    questions=(
        "an input for which the released summary lies",
        "all filters at once: windows times a bank of patterns, signs by the same product",
        "a `complete(prompt)` of your own, and its coverage@k",
    ),
)
