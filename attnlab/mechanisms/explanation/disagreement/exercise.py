"""A song of (dis)agreement as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=2,
    minutes=30,
    hints=(
        "Average the heads, add the identity, and divide every row by its sum: that is A_l.",
        "The rollout multiplies A_L A_{L-1} ... A_1, but only row 0 is asked for.",
        "Keep a row vector: begin with A_L[0] and multiply it by the next lower layer, n^2 a layer.",
    ),
    questions=(
        "tau-b in O(n log n) with ties",
        "show that (A + I)/2 is the L1-normalised form for a row that sums to 1",
        "prove that IG is Grad-SHAP in expectation for one baseline",
        "find the transposed matrix in the attention layer",
    ),
)
