"""Relative attention of the Music Transformer as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=45,
    prerequisites=("attention",),
    hints=(
        "Take the last n rows of the table; pad zero rows on the left where it is shorter. "
        "R = q E^T then holds in column c the score of distance n - 1 - c.",
        "Pad one zero column on the left of R, read the numbers as (n + 1) x n and drop the first "
        "row: every row has moved by its own offset.",
        "What stands above the diagonal after the skew are other rows' numbers, not zeros: mask "
        "before the softmax, and give both products the same scale.",
    ),
    questions=(
        "write skew and prove X[i, j] = R[i, n-1-(i-j)]",
        "derive the table's gradient as sums along diagonals and check it by finite differences",
        "local form: which (block, distance) pairs exist, and why 2b rows of the table suffice",
    ),
)
