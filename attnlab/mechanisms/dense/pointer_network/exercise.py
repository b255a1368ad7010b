"""Pointer network as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=2,
    minutes=35,
    prerequisites=("attention",),
    hints=(
        "Project once: K = enc W1 (n, hidden) and q_t = dec_t W2; matrices stand on the right.",
        "u_tj = v . tanh(K_j + q_t): add, squash, then contract the hidden width with v.",
        "Softmax over the real slots alone; the loss averages over all real steps of the whole batch.",
    ),
    questions=(
        "sort numbers with a pointer",
        "masked beam search",
        "shuffle the input points and compare the outputs: the encoder reads an order",
        "replace the additive score by a dot product and time both",
    ),
)
