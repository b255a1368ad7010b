"""SEAL: n-grams as document identifiers as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=4,
    minutes=60,
    hints=(
        "The text is stored reversed, so the n-gram is fed in reading order, first token first.",
        "Keep the range half-open: l' = C[c] + rank(c, l) and r' = C[c] + rank(c, r).",
        "A symbol that the corpus lacks, or an empty range, ends the search with count 0.",
    ),
    questions=(
        "the transform and backward search of 'banana' by hand",
        "continuations without an index, then with it",
        "why log odds: show that ', the' wins otherwise",
    ),
)
