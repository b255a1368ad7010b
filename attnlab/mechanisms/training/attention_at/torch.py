"""Adversarial training of attention in PyTorch: the perturbation in closed form, one encoder pass.

The released step runs the model three times and backward in between; here hidden states are
computed once, because they do not depend on the perturbation.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from . import EXHIBIT

FLOOR, CONSTANT = 1e-12, 1e-12


@EXHIBIT.path
def adversarial_step(
    x: Float[Tensor, "batch n embed"],
    mask: Bool[Tensor, "batch n"],
    label: Int[Tensor, "batch"],
    pos_weight: Float[Tensor, "batch 1"],
    encoder_l_weight: Float[Tensor, "width embed"],
    encoder_l_bias: Float[Tensor, "width"],
    attention_layer_attn_0_weight: Float[Tensor, "units width"],
    attention_layer_attn_0_bias: Float[Tensor, "units"],
    attention_layer_attn_2_weight: Float[Tensor, "1 units"],
    output_weight: Float[Tensor, "1 width"],
    output_bias: Float[Tensor, "1"],
    direction: Float[Tensor, "batch n"] | None = None,
    *,
    variant: str = "at",
    xi: float = 1.0,
    lam_adv: float = 1.0,
    want: frozenset[str] = frozenset(),
) -> dict[str, Tensor | None]:
    """See the reference. The perturbation is detached: gradients take it as a constant."""
    W1, w2, wo = attention_layer_attn_0_weight, attention_layer_attn_2_weight[0], output_weight[0]
    h = linear(x, encoder_l_weight, encoder_l_bias).tanh()
    units = linear(h, W1, attention_layer_attn_0_bias).tanh()
    scores, value = units @ w2, h @ wo  # (batch, n)
    weight = torch.where(label == 1, pos_weight[:, 0], 1)

    a, logit, L = forward(scores, value, mask, output_bias[0], label, weight)
    slope = logit_slope(a.detach(), value.detach(), mask)
    g = slope * loss_slope(logit.detach(), label, weight)[:, None]
    r = perturbation(g, scores.detach(), mask, variant, xi, direction)
    a_perturbed, _, L_adv = forward(scores + r, value, mask, output_bias[0], label, weight)
    made = {
        "logit": logit[:, None],
        "scores": scores,
        "attention": a,
        "d_grad": g,
        "perturbation": r,
        "attention_perturbed": a_perturbed,
        "loss_total": L + lam_adv * L_adv,
        "loss_adv": L_adv,
    }
    with torch.no_grad():
        if want & {"grad_importance", "pearson"}:
            through_scores = slope[..., None] * (((1 - units**2) * w2) @ W1)
            back = (1 - h**2) * (a[..., None] * wo + through_scores)
            made["grad_importance"] = importance = (back @ encoder_l_weight).norm(dim=-1)
            made["pearson"] = pearson(a, importance, mask)
        if variant == "iat_released" and "dir_normed" in want:
            between = scores[:, None] - scores[None]
            made["dir_normed"] = between / between.norm(dim=1, keepdim=True).clamp(min=FLOOR)
    return made


@EXHIBIT.path
def attend(
    hidden: Float[Tensor, "batch n width"],
    query: Float[Tensor, "batch width"],
    mask: Bool[Tensor, "batch n"],
    bc_tanh_attn_0_weight: Float[Tensor, "units width"],
    bc_tanh_attn_0_bias: Float[Tensor, "units"],
    bc_tanh_attn_2_weight: Float[Tensor, "1 units"],
    bc_dot_attn1_weight: Float[Tensor, "1 width"],
    qa_tanh_attn1p_weight: Float[Tensor, "units width"],
    qa_tanh_attn1p_bias: Float[Tensor, "units"],
    qa_tanh_attn1q_weight: Float[Tensor, "units width"],
    qa_tanh_attn1q_bias: Float[Tensor, "units"],
    qa_tanh_attn2_weight: Float[Tensor, "1 units"],
) -> dict[str, Tensor]:
    """See the reference."""
    root = hidden.shape[2] ** 0.5
    one = linear(hidden, bc_tanh_attn_0_weight, bc_tanh_attn_0_bias).tanh()
    asked = linear(query, qa_tanh_attn1q_weight, qa_tanh_attn1q_bias + qa_tanh_attn1p_bias)
    both = (linear(hidden, qa_tanh_attn1p_weight) + asked[:, None]).tanh()
    scores = {
        "bc_tanh": one @ bc_tanh_attn_2_weight[0],
        "bc_dot": hidden @ bc_dot_attn1_weight[0] / root,
        "qa_tanh": both @ qa_tanh_attn2_weight[0],
        "qa_dot": (hidden @ query[..., None])[..., 0] / root,
    }
    return {name: masked_softmax(s, mask) for name, s in scores.items()}


def masked_softmax(
    s: Float[Tensor, "batch n"], mask: Bool[Tensor, "batch n"]
) -> Float[Tensor, "batch n"]:
    """(2): masked scores count as 0, then their weights are dropped and the rest renormalised."""
    p = s.masked_fill(~mask, 0).softmax(-1).masked_fill(~mask, 0)
    return p / (p.sum(-1, keepdim=True) + 1e-13)


def forward(
    scores: Float[Tensor, "batch n"],
    value: Float[Tensor, "batch n"],
    mask: Bool[Tensor, "batch n"],
    bias: Tensor,
    label: Int[Tensor, "batch"],
    weight: Float[Tensor, "batch"],
) -> tuple[Tensor, Tensor, Tensor]:
    """(2), (3): attention (batch, n), logit (batch,), the weighted mean loss; value = wo . h."""
    a = masked_softmax(scores, mask)
    logit = (a * value).sum(1) + bias
    return a, logit, -(weight * logsigmoid(torch.where(label == 1, logit, -logit))).mean()


def logit_slope(
    a: Float[Tensor, "batch n"], value: Float[Tensor, "batch n"], mask: Bool[Tensor, "batch n"]
) -> Float[Tensor, "batch n"]:
    """d logit / d scores = a_t (v_t - sum_s a_s v_s), exactly 0 where the words' values are equal."""
    first = mask.to(torch.uint8).argmax(1, keepdim=True)
    v = (value - value.gather(1, first)).masked_fill(~mask, 0)
    return a * (v - (a * v).sum(1, keepdim=True))


def loss_slope(
    logit: Float[Tensor, "batch"], label: Int[Tensor, "batch"], weight: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """dL / d logit = weight (sigmoid(logit) - label) / B, without the cancellation at label 1."""
    wrong = torch.where(label == 1, -weight, weight)
    return wrong * torch.where(label == 1, -logit, logit).sigmoid() / len(logit)


def perturbation(
    g: Float[Tensor, "batch n"],
    scores: Float[Tensor, "batch n"],
    mask: Bool[Tensor, "batch n"],
    variant: str,
    xi: float,
    direction: Float[Tensor, "batch n"] | None = None,
) -> Float[Tensor, "batch n"]:
    """r of (4), (5), (6) or at random, each row of length xi where g is not 0."""
    if variant == "rp":
        assert direction is not None
        return xi * unit(direction.masked_fill(~mask, 0))
    if variant == "iat":
        return xi * corrected(g, scores, mask)
    return xi * unit(g) if variant == "at" else -xi * unit(g)


def corrected(
    g: Float[Tensor, "batch n"], scores: Float[Tensor, "batch n"], mask: Bool[Tensor, "batch n"]
) -> Float[Tensor, "batch n"]:
    """(5) without its n x n differences: r_t = g_t c_t / ||g c^(1/2)||, c_t = sum_k d_{t,k}^2.

    c_t = min(1, (||s_t - s|| / floor)^2) is 1 unless all scores of the sentence are equal.
    """
    first = mask.to(torch.uint8).argmax(1, keepdim=True)
    s = (scores - scores.gather(1, first)).masked_fill(~mask, 0)
    count = mask.sum(1, keepdim=True)
    mean = s.sum(1, keepdim=True) / count.clamp(min=1)
    s = (s - mean).masked_fill(~mask, 0)
    apart = (count * s**2 + (s**2).sum(1, keepdim=True)).sqrt() / FLOOR
    c = apart.clamp(max=1) ** 2
    return g * c / (g**2 * c).sum(1, keepdim=True).sqrt().clamp(min=FLOOR)


def unit(g: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Each row at length 1; what is shorter than the floor stays short."""
    return g / g.norm(dim=-1, keepdim=True).clamp(min=FLOOR)


def pearson(
    a: Float[Tensor, "batch n"], b: Float[Tensor, "batch n"], mask: Bool[Tensor, "batch n"]
) -> Float[Tensor, "batch"]:
    """Correlation over the words; NaN where one of the two is constant."""
    count = mask.sum(1, keepdim=True).clamp(min=1)

    def centred(y: Tensor) -> tuple[Tensor, Tensor]:
        y = y.masked_fill(~mask, 0)
        d = (y - y.sum(1, keepdim=True) / count).masked_fill(~mask, 0)
        square = (d**2).sum(1)
        return d, torch.where(square <= CONSTANT * (y**2).sum(1), torch.nan, square)

    (da, va), (db, vb) = centred(a), centred(b)
    return (da * db).sum(1) / (va * vb).sqrt()
