"""Adversarial training of attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    hints=(
        "The pooled logit is linear in the attention: logit = sum_t a_t (wo . h_t) + bo.",
        "So dL/da~ needs no backward pass: the softmax's Jacobian times v, with v as in the card.",
        "The step goes before the softmax, its norm is over one sentence, and r is a constant.",
    ),
    questions=(
        "derive g_t = a_t (v_t - sum_s a_s v_s)",
        "show that the random perturbation changes the loss by 0 on average, to first order",
        "show that (5) equals (4) where the scores of a sentence are not all equal",
    ),
)
