"""HyperAttention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=4,
    minutes=75,
    hints=(
        "Keep a log-sum-exp beside every output: two attentions over disjoint key sets merge exactly "
        "with weights 1/(1 + exp(l2 - l1)).",
        "Sort queries and keys by their buckets, attend block t to block t, and put the queries "
        "back in their order at the end; keys need no un-sorting.",
        "Sampled columns count keys/S times each: add log(keys/S) to their log-sum-exp. Samples of "
        "the own block are hidden, since the block has counted them already.",
    ),
    prerequisites=("attention",),
    questions=("bucket and sort", "blocks and samples", "the causal recursion"),
)
