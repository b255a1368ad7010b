"""Landmark attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    hints=(
        "An exclusive cumulative sum of is_landmark numbers the sections: a landmark belongs to the "
        "block it closes.",
        "Two softmaxes: one inside every past block, and one over the past landmarks together with "
        "the tokens of the query's own section. Leave the query's own landmark out of both.",
        "Multiply the weights inside a block by its landmark's probability and set the landmark's "
        "own weight to 0; where a row has no key at all, return zeros instead of NaN.",
    ),
    prerequisites=("attention",),
    questions=("grouped softmax with section numbers", "bookkeeping of the block cache"),
)
