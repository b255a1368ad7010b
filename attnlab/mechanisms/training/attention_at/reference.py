"""Adversarial training of attention in NumPy (Kitada and Iyatomi 2021)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from . import EXHIBIT

FLOOR = 1e-12  # of norms that are divided by
CONSTANT = 1e-12  # a spread below this share of the sum of squares counts as none


@EXHIBIT.path
def adversarial_step(
    x: Float[np.ndarray, "batch n embed"],
    mask: Bool[np.ndarray, "batch n"],
    label: Int[np.ndarray, "batch"],
    pos_weight: Float[np.ndarray, "batch 1"],
    encoder_l_weight: Float[np.ndarray, "width embed"],
    encoder_l_bias: Float[np.ndarray, "width"],
    attention_layer_attn_0_weight: Float[np.ndarray, "units width"],
    attention_layer_attn_0_bias: Float[np.ndarray, "units"],
    attention_layer_attn_2_weight: Float[np.ndarray, "1 units"],
    output_weight: Float[np.ndarray, "1 width"],
    output_bias: Float[np.ndarray, "1"],
    direction: Float[np.ndarray, "batch n"] | None = None,
    *,
    variant: str = "at",
    xi: float = 1.0,
    lam_adv: float = 1.0,
) -> dict[str, np.ndarray | None]:
    """Clean pass, perturbation of the attention scores, perturbed pass.

    Parameters
    ----------
    x, mask     word embeddings; True at words
    label       0 or 1; pos_weight (batch, 1) weighs the loss of label 1
    direction   normal draws, with variant "rp" alone
    variant     "at" (4), "iat" (5), "iat_released" (6), "rp" (random)
    xi, lam_adv length of the perturbation, weight of its loss

    Returns
    -------
    logit (batch, 1); scores, attention, d_grad, perturbation, attention_perturbed, grad_importance
    (batch, n), 0 at padding but for scores; pearson (batch,), NaN where attention or importance is
    constant; loss_total, loss_adv (nats); dir_normed (batch, batch, n) with "iat_released"
    """
    batch = len(x)
    W1, w2 = attention_layer_attn_0_weight, attention_layer_attn_2_weight[0]
    wo = output_weight[0]
    h = np.tanh(x @ encoder_l_weight.T + encoder_l_bias)  # (batch, n, width)
    units = np.tanh(h @ W1.T + attention_layer_attn_0_bias)  # (batch, n, units)
    scores = units @ w2  # (1)
    value = h @ wo  # (batch, n): the logit is their average
    weight = np.where(label == 1, pos_weight[:, 0], 1).astype(x.dtype)
    wrong = np.where(label == 1, -1, 1).astype(x.dtype)  # where the logit should not go

    def forward(s):  # type: ignore[no-untyped-def]
        a = masked_softmax(s, mask)  # (2)
        z = (a * value).sum(axis=1) + output_bias[0]  # (3)
        return a, z, np.mean(weight * np.logaddexp(0, wrong * z))

    a, logit, L = forward(scores)
    slope = logit_slope(a, value, mask)  # (batch, n)
    # dL / d logit = weight (sigmoid(logit) - label) / B, without the cancellation at label 1
    error = weight * wrong * np.exp(-np.logaddexp(0, -wrong * logit)) / batch
    g = slope * error[:, None]

    dir_normed = None
    if variant == "iat":
        r = corrected(scores, g, mask, xi)
    elif direction is not None:  # rp
        r = xi * unit(np.where(mask, direction, 0))
    else:
        r = xi * unit(g) if variant == "at" else -xi * unit(g)  # (4), (6)
    if variant == "iat_released":  # differences between instances, normalised along the second
        between = scores[:, None] - scores[None]
        dir_normed = between / np.maximum(np.linalg.norm(between, axis=1, keepdims=True), FLOOR)
    a_perturbed, _, L_adv = forward(scores + r)

    # d logit / d x_t: the word's share in the pooled state, and what its score moves
    through_scores = slope[..., None] * (((1 - units**2) * w2) @ W1)
    back = (1 - h**2) * (a[..., None] * wo + through_scores)
    importance = np.linalg.norm(back @ encoder_l_weight, axis=-1)
    return {
        "logit": logit[:, None],
        "scores": scores,
        "attention": a,
        "d_grad": g,
        "perturbation": r.astype(x.dtype),
        "attention_perturbed": a_perturbed,
        "grad_importance": importance,
        "pearson": pearson(a, importance, mask),
        "loss_total": np.asarray(L + lam_adv * L_adv, x.dtype),
        "loss_adv": L_adv,
        "dir_normed": dir_normed,
    }


@EXHIBIT.path
def attend(
    hidden: Float[np.ndarray, "batch n width"],
    query: Float[np.ndarray, "batch width"],
    mask: Bool[np.ndarray, "batch n"],
    bc_tanh_attn_0_weight: Float[np.ndarray, "units width"],
    bc_tanh_attn_0_bias: Float[np.ndarray, "units"],
    bc_tanh_attn_2_weight: Float[np.ndarray, "1 units"],
    bc_dot_attn1_weight: Float[np.ndarray, "1 width"],
    qa_tanh_attn1p_weight: Float[np.ndarray, "units width"],
    qa_tanh_attn1p_bias: Float[np.ndarray, "units"],
    qa_tanh_attn1q_weight: Float[np.ndarray, "units width"],
    qa_tanh_attn1q_bias: Float[np.ndarray, "units"],
    qa_tanh_attn2_weight: Float[np.ndarray, "1 units"],
) -> dict[str, np.ndarray]:
    """Attention (batch, n) of each of the four layers; fully masked rows are 0."""
    root = np.sqrt(hidden.dtype.type(hidden.shape[2]))
    one = np.tanh(hidden @ bc_tanh_attn_0_weight.T + bc_tanh_attn_0_bias)
    asked = query @ qa_tanh_attn1q_weight.T + qa_tanh_attn1q_bias  # (batch, units)
    both = np.tanh(hidden @ qa_tanh_attn1p_weight.T + qa_tanh_attn1p_bias + asked[:, None])
    scores = {
        "bc_tanh": one @ bc_tanh_attn_2_weight[0],
        "bc_dot": hidden @ bc_dot_attn1_weight[0] / root,
        "qa_tanh": both @ qa_tanh_attn2_weight[0],
        "qa_dot": np.einsum("bne,be->bn", hidden, query) / root,
    }
    return {name: masked_softmax(s, mask) for name, s in scores.items()}


def logit_slope(a, value, mask):  # type: ignore[no-untyped-def]
    """d logit / d scores, (batch, n), where the logit is sum_t a_t value_t: the softmax's slope."""
    # Differences of values alone matter; counted from the first word, equal ones give exactly 0.
    v = np.where(mask, value - value[np.arange(len(a)), mask.argmax(axis=1)][:, None], 0)
    return a * (v - (a * v).sum(axis=1, keepdims=True))


def masked_softmax(s, mask):  # type: ignore[no-untyped-def]
    """(2), (batch, n): masked scores count as 0, their weights are dropped, the rest renormalised."""
    s = np.where(mask, s, 0)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    p = np.where(mask, e / e.sum(axis=-1, keepdims=True), 0)
    return p / (p.sum(axis=-1, keepdims=True) + 1e-13)


def unit(g):  # type: ignore[no-untyped-def]
    """Each row at length 1; what is shorter than the floor stays short."""
    return g / np.maximum(np.linalg.norm(g, axis=-1, keepdims=True), FLOOR)


def corrected(scores, g, mask, xi):  # type: ignore[no-untyped-def]
    """(5): steps along normalised differences of scores inside a sentence, (batch, n) of length xi."""
    r = np.zeros_like(scores)
    for b, seen in enumerate(mask):
        s = scores[b, seen]
        d = unit(s[:, None] - s)  # d_{t,k}
        slope = g[b, seen, None] * d  # dL / d alpha_{t,k} at alpha = 0
        alpha = xi * slope / np.maximum(np.sqrt((slope**2).sum()), FLOOR)
        r[b, seen] = (alpha * d).sum(axis=1)
    return r


def pearson(a, b, mask):  # type: ignore[no-untyped-def]
    """Correlation of two (batch, n) over the words; NaN where one of them is constant."""
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)

    def centred(y):  # type: ignore[no-untyped-def]
        y = np.where(mask, y, 0)
        d = np.where(mask, y - y.sum(axis=1, keepdims=True) / count, 0)
        flat = (d**2).sum(axis=1) <= CONSTANT * (y**2).sum(axis=1)
        return d, np.where(flat, np.nan, (d**2).sum(axis=1))

    (da, va), (db, vb) = centred(a), centred(b)
    return ((da * db).sum(axis=1) / np.sqrt(va * vb)).astype(a.dtype)
