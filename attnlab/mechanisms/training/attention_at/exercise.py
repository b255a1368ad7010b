"""Adversarial training of attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def masked(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores (3, n), some of them equal, and a mask; the last sentence may have no word at all."""
    s, mask = rng.standard_normal((3, n)), rng.random((3, n)) < 0.7
    mask[0, rng.integers(n)] = True
    if rng.random() < 0.3:
        s[1] = s[1, 0]
    if rng.random() < 0.3:
        mask[2] = False
    return s, mask


def softmax_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    s, mask = masked(n, rng)
    return {"s": s, "mask": mask}


def slope_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Attention that sums to 1 over the words, and what each word is worth."""
    s, mask = masked(n, rng)
    e = np.where(mask, np.exp(s), 0)
    a = e / np.maximum(e.sum(axis=1, keepdims=True), 1e-13)
    return {"a": a, "value": rng.standard_normal((3, n)), "mask": mask}


def corrected_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Scores, and a gradient that is 0 at padding; sometimes 0 in a whole sentence."""
    scores, mask = masked(n, rng)
    g = np.where(mask, rng.standard_normal((3, n)), 0)
    if rng.random() < 0.2:
        g[1] = 0
    return {"scores": scores, "g": g, "mask": mask, "xi": float(rng.choice([0.5, 1.0, 3.0]))}


EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    hints=(
        "With the hidden states fixed, the logit is an average of one number a word, weighted by "
        "the attention. So the gradient in the scores needs no backward pass.",
        "First the slope of the logit in the scores, which is that of a softmax average; then the "
        "slope of the loss in the logit. The step is made before the softmax, its length is measured "
        "over one sentence, and it is a constant for the second pass.",
        "value = h @ wo; g = a * (value - (a * value).sum(1)) * weight * (sigmoid(logit) - label) / "
        "batch; r = xi * g / max(|g|, 1e-12) by sentence; then softmax, logit and loss again at "
        "scores + r.",
    ),
    parts=(
        Part(
            "masked_softmax",
            "attention over the words; a sentence without words gets zeros",
            softmax_example,
        ),
        Part("logit_slope", "how the pooled logit moves with each score", slope_example),
        Part(
            "corrected",
            "the interpretable perturbation as the paper describes it, sign and all",
            corrected_example,
        ),
    ),
    mistakes=(
        Mistake(
            "slope without the mean",
            old="return a * (v - (a * v).sum(axis=1, keepdims=True))",
            new="return a * v",
            says="Your gradient does not sum to 0 over a sentence. Raising one score takes attention "
            "from all the other words: the slope needs their average taken off.",
        ),
        Mistake(
            "padding attended to",
            old="p = np.where(mask, e / e.sum(axis=-1, keepdims=True), 0)",
            new="p = e / e.sum(axis=-1, keepdims=True)",
            says="Your attention gives weight to padding: a masked score of 0 is still e^0 in the "
            "softmax. The masked weights have to go before you renormalise.",
        ),
        Mistake(
            "norm over the batch",
            old="np.maximum(np.linalg.norm(g, axis=-1, keepdims=True), FLOOR)",
            new="np.maximum(np.linalg.norm(g, axis=0, keepdims=True), FLOOR)",
            says="Your perturbation is normalised along the wrong axis: its length has to be xi in "
            "every sentence by itself, measured over its words.",
        ),
        Mistake(
            "sum for mean",
            old="np.exp(-np.logaddexp(0, -wrong * logit)) / batch",
            new="np.exp(-np.logaddexp(0, -wrong * logit))",
            says="Your d_grad is too large by a factor of the batch: it matches when divided by it. "
            "The loss is a mean over the batch.",
        ),
        Mistake(
            "perturbed after the softmax",
            old="    a_perturbed, _, L_adv = forward(scores + r)",
            new="    a_perturbed = a + r\n"
            "    z = (a_perturbed * value).sum(axis=1) + output_bias[0]\n"
            "    L_adv = np.mean(weight * np.logaddexp(0, wrong * z))",
            says="Your perturbed attention is the clean one plus r: it need not sum to 1 and may be "
            "negative. The step is added to the scores, before the softmax.",
        ),
        Mistake(
            "downhill",
            old="        alpha = xi * slope /",
            new="        alpha = -xi * slope /",
            says="Your interpretable perturbation points the wrong way: it lowers the loss. That is "
            "the sign of the released code; the adversary climbs.",
        ),
    ),
    questions=(
        "derive g_t = a_t (v_t - sum_s a_s v_s)",
        "show that the random perturbation changes the loss by 0 on average, to first order",
        "show that (5) equals (4) where the scores of a sentence are not all equal",
        "which gradients does the optimiser see when the first pass is not cleared?",
    ),
)
