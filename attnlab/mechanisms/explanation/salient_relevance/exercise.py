"""Salient Relevance as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    hints=(
        "One query patch a pixel, one candidate patch every p // 2 rows and columns, at up to three scales.",
        "|P - Q|^2 = |P|^2 + |Q|^2 - 2 P.Q turns all distances into one matrix product; then (6), "
        "and only then the K smallest.",
        "Leave out the query itself at its own scale, divide by how many were found, and mind "
        "an image where every pixel is a focus: max d_foci is 0.",
    ),
    questions=(
        "the three rules of relevance propagation with one function `redistribute`",
        "an unpooling that adds instead of writing, and how much relevance it saves",
        "the K-nearest search in tiles: no table of all pairs",
    ),
)
