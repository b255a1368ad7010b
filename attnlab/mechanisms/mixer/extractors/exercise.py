"""Extractors: SHE, HE, WE and ME as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=2,
    minutes=35,
    hints=(
        "With index='absolute' the weight belongs to token j alone: transform every token once, then "
        "take a running sum.",
        "With index='lag' the weight of lag l meets the tokens l steps back: shift the rows by l and "
        "add. Lag 0 is the current token.",
        "Row t (from 0) is divided by sqrt(t+1), and multiplied by a_t of the current token, not by "
        "the sum's.",
    ),
    prerequisites=("attention",),
)
