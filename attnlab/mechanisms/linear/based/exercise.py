"""BASED: Taylor linear attention with a sliding window as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=50,
    hints=(
        "Project first, then compare: s = q.k / sqrt(d') with d' the feature dimension, not the "
        "width of the model.",
        "The weights 1 + s + s^2/2 are zeroed above the diagonal, and each row is divided by its sum.",
        "phi(k) has 1 + d' + d'^2 entries: one, k / d'^(1/4), and all products k_i k_j over "
        "sqrt(2 d'), row by row. The states are sums of v phi(k)^T and of phi(k).",
    ),
    prerequisites=("attention", "lightning"),
)
