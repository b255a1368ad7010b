"""Routing Transformer as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    hints=(
        "Normalised rows serve the routing alone: similarity, top-w lists and the loss. The "
        "attention scores inside a cluster use the raw queries and keys.",
        "For each cluster take the w largest columns of the similarity, gather, attend, add the "
        "result back at the original positions and count how often each position was served.",
        "Divide by count + 1e-5, and compare original positions, not places in the cluster, in the "
        "causal mask; the argmax buckets of the loss are another assignment than the top-w lists.",
    ),
    prerequisites=("attention",),
    questions=("a spherical k-means step", "gather, attend, scatter-mean"),
)
