"""Retrieval heads as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=2,
    minutes=40,
    prerequisites=("attention",),
    hints=(
        "Row t belongs to the step that emits g_t: compare prompt[j] with g_t, not with the token read.",
        "Row t has n + t valid keys; a maximum at j >= n lies in the answer and is no copy.",
        "Every event adds 1/(e-s), also when the head copies the same needle token again.",
    ),
    questions=(
        "the set version of (2), which never exceeds 1",
        "top_k > 1: by how much do the scores of a random head grow?",
        "the running argmax: score a row of logits without storing its softmax",
    ),
)
