"""MoH: attention as a mixture of heads as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=45,
    prerequisites=("attention",),
    hints=(
        "Three softmaxes over x: one over the routed heads, one over the shared ones, one over the two groups.",
        "Renormalise the chosen p to sum to top_k, multiply the others' by n_shared, the groups' by 2: "
        "an untrained gate is then near 1.",
        "aux takes p before it is renormalised, and the choice itself as a constant: f from the mask, P from p.",
    ),
    questions=(
        "prove that concatenating and projecting is a sum over heads",
        "gather the queries of each head, attend, and scatter the results",
        "show that one head cannot serve all types of claim 1's task, and a mixture can",
    ),
)
