"""Scan and snap training dynamics as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=50,
    hints=(
        "The score of key x_i is K2[m, x_i]: row = last token, column = key; nothing is divided.",
        "Repeated keys add up: u collects attention per token, not per position.",
        "Normalise u before the decoder, and remember that the decoder is K1, not its transpose.",
    ),
    questions=(
        "derive (4) and check it by finite differences",
        "show that each row of dJ/dK2 sums to 0",
        "train without the normalisation and compare",
    ),
)
