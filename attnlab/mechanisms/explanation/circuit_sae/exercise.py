"""Circuit discovery with sparse autoencoders as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    prerequisites=("attention",),
    hints=(
        "Subtract the tied bias before encoding and add it after decoding; codes are argmax after relu.",
        "An all-zero row has code 0, and so does a row whose strongest feature is number 0.",
        "Rescale the rows first, take the gradient there, project it row by row, then let Adam step.",
    ),
    questions=(
        "show that after the projection the rows' lengths stay 1 to first order in lr",
        "rewrite (7) with sets of pairs and measure memory against an n^2 F^2 table",
        "build a negative set that is too easy and watch irrelevant heads appear",
    ),
)
