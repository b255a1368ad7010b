"""Agreement between explanations in PyTorch: many points in one pass, gradients by autograd."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from attnlab.layers.heads import merge_heads, split_heads

from . import COMPARED, EXHIBIT


@EXHIBIT.path
def agreement(
    a: Float[Tensor, "n"],
    b: Float[Tensor, "n"],
    ks: Int[Tensor, "tops"],
    alphas: Float[Tensor, "exponents"],
    *,
    p: float = 0.5,
) -> dict[str, Tensor]:
    """See the reference. Every correlation but top-k comes from row sums of the pairs' signs."""
    sa, sb = signs(a), signs(b)
    product = sa * sb
    rows = [x.sum(1).double() for x in (product, sa != 0, sb != 0)]  # (n,) each
    at = [(below_or_tied(s)).double() for s in (sa, sb)]
    taus = [
        (weighted(a, b, rows, alpha) + weighted(b, a, [rows[0], rows[2], rows[1]], alpha)) / 2
        for alpha in alphas
    ]
    dense = [torch.unique(-x, return_inverse=True)[1] for x in (a, b)]
    opposite, one_tie = product < 0, (sa == 0) != (sb == 0)

    def top(k: Tensor, penalty: float) -> Tensor:
        in_a, in_b = (d < k for d in dense)
        pairs = ((in_a[:, None] & in_b) | (in_b[:, None] & in_a)).triu(1)
        distance = (opposite & pairs).sum() + penalty * (one_tie & pairs).sum().double()
        return 1 - 2 * distance / pairs.sum().clamp(min=1)

    def tops(penalty: float) -> Tensor:
        return torch.stack([top(k, penalty) for k in ks]) if len(ks) else a.new_zeros(0)

    nonzero = torch.minimum(a.count_nonzero(), b.count_nonzero())
    scores = {
        "kendall_tau": ratio(rows[0].sum(), rows[1].sum(), rows[2].sum()),
        "spearman_rho": pearson(*at),
        "pearson_r": pearson(a.double(), b.double()),
        "weighted_tau": torch.stack(taus) if taus else a.new_zeros(0),
        "topk_p05": tops(0.5),
        "topk_p10": tops(1.0),
        "topk": tops(p),
        "topk_nonzero": torch.stack([top(nonzero, 0.5), nonzero]),
        "bucket_order_a": at[0],
    }
    return {name: value.to(a.dtype) for name, value in scores.items()} | {
        "top3_a": (dense[0] < 3).nonzero()[:, 0],
        "undefined": sum((x == x[0]).all().long() for x in (a, b)),
    }


def signs(a: Float[Tensor, "n"]) -> Int[Tensor, "n n"]:
    return (a[:, None] > a).to(torch.int8) - (a[:, None] < a).to(torch.int8)


def below_or_tied(s: Int[Tensor, "n n"]) -> Float[Tensor, "n"]:
    """Bucket positions: items above + (size + 1)/2."""
    return (s < 0).sum(1) + ((s == 0).sum(1) + 1) / 2


def ratio(balance: Tensor, differ_a: Tensor, differ_b: Tensor) -> Tensor:
    """balance / sqrt(differ_a differ_b), NaN where nothing differs."""
    under = differ_a * differ_b
    return torch.where(under > 0, balance / under.clamp(min=1e-300).sqrt(), math.nan)


def pearson(a: Float[Tensor, "n"], b: Float[Tensor, "n"]) -> Tensor:
    x, y = a - a.mean(), b - b.mean()
    constant = (a == a[0]).all() | (b == b[0]).all()
    return torch.where(constant, math.nan, (x @ y) / ((x @ x) * (y @ y)).sqrt())


def weighted(
    first: Float[Tensor, "n"], then: Float[Tensor, "n"], rows: list[Tensor], alpha: Tensor
) -> Tensor:
    """(12) by (first, then): the sum over pairs of (w_i + w_j) s_ij is 2 w . (row sums of s)."""
    order = then.argsort(stable=True)
    order = order[first[order].argsort(stable=True)].flip(0)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    w = (1.0 + rank.double()) ** -alpha.double()
    return ratio(*(w @ row for row in rows))


@EXHIBIT.path
def aggregate_attention(
    attention: Float[Tensor, "batch layers heads n n"],
) -> dict[str, Tensor]:
    """See the reference: a row vector times one layer after another."""
    heads_mean = attention.mean(2)  # (batch, layers, n, n)
    n = attention.shape[-1]
    size = heads_mean.sum(-1, keepdim=True) + 1  # L1 norm of a row after adding the identity
    first = torch.zeros(n, dtype=attention.dtype, device=attention.device)
    first[0] = 1
    row = first.expand(len(attention), n)
    for layer in reversed(range(attention.shape[1])):
        scaled = row / size[:, layer, :, 0]
        row = torch.einsum("bj,bjk->bk", scaled, heads_mean[:, layer]) + scaled
    return {"avg": heads_mean.mean(1).amax(-1), "rollout_cls": row}


@EXHIBIT.path
def self_attend(
    x: Float[Tensor, "batch n wide"],
    mask: Bool[Tensor, "batch n"] | None = None,
    *,
    n_heads: int,
    projection: str = "released",
    want: frozenset[str] = frozenset(),
    **lin: Tensor,
) -> dict[str, Tensor | None]:
    """See the reference. Without weights and norms this is torch's fused kernel."""
    q, k, v = (linear(x, lin[f"{name}_lin_weight"], lin[f"{name}_lin_bias"]) for name in "qkv")
    q, k = split_heads(q, n_heads), split_heads(k, n_heads)
    released = projection == "released"
    W, bias = lin["out_lin_weight"], lin["out_lin_bias"]
    values = split_heads(v @ W if released else v, n_heads)  # (batch, heads, n, dim)
    seen = None if mask is None else mask[:, None, None]

    weights = norms = None
    if want & {"weights", "norms"}:
        S = q @ k.mT * q.shape[-1] ** -0.5
        weights = (S if seen is None else S.masked_fill(~seen, -torch.inf)).softmax(-1)
        written = weights @ values
    else:
        written = scaled_dot_product_attention(q, k, values, attn_mask=seen)
    if "norms" in want:
        assert weights is not None
        F = values if released else values @ W.T.reshape(n_heads, -1, W.shape[0])
        norms = weights * F.norm(dim=-1)[:, :, None]
    context = merge_heads(written)
    context = context + bias if released else linear(context, W, bias)
    return {"context": context, "weights": weights, "norms": norms}


class BiLSTM:
    """P(class 1) of points (points, n, width), all reading the same n tokens."""

    def __init__(self, weights: Mapping[str, Tensor], mask: Bool[Tensor, "n"]):
        self.w, self.mask = weights, mask
        self.lstm = [
            weights[f"enc_{name}_{end}"]
            for end in ("l0", "l0_reverse")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]

    def read(self, points: Float[Tensor, "points n width"]) -> tuple[Tensor, Tensor, Tensor]:
        """(probability (points,), attention (points, n), hidden states (points, n, 2 hidden))."""
        w = self.w
        zero = points.new_zeros(2, len(points), self.lstm[1].shape[1])
        h = torch.lstm(points, (zero, zero), self.lstm, True, 1, 0.0, False, True, True)[0]
        u = linear(h, w["att_alignment_layer1_weight"], w["att_alignment_layer1_bias"]).tanh()
        s = linear(u, w["att_alignment_layer2_weight"])[..., 0]
        alpha = s.masked_fill(~self.mask, -torch.inf).softmax(-1)
        c = (alpha[:, None] @ h)[:, 0]
        return linear(c, w["dec_weight"], w["dec_bias"])[:, 0].sigmoid(), alpha, h

    def probability(self, points: Float[Tensor, "points n width"]) -> Tensor:
        return self.read(points)[0]

    def multipliers(self, x: Tensor, baselines: Tensor, gradient: Tensor) -> Tensor:
        """(3): no registered non-linearity, so the gradient at x for every baseline."""
        return gradient.expand(len(baselines), *x.shape)


class MLP:
    """As `BiLSTM`, for the token-wise network."""

    def __init__(self, weights: Mapping[str, Tensor], mask: Bool[Tensor, "n"]):
        self.w = weights
        self.share = mask.to(weights["l1_weight"].dtype) / mask.sum()

    def read(self, points: Float[Tensor, "points n width"]) -> tuple[Tensor, ...]:
        w = self.w
        z1 = linear(points, w["l1_weight"], w["l1_bias"])
        z2 = linear(z1.tanh(), w["l2_weight"], w["l2_bias"])
        pooled = torch.einsum("pth,t->ph", z2.relu(), self.share)
        s = linear(pooled, w["o_weight"], w["o_bias"])[:, 0]
        return z1, z1.tanh(), z2, z2.relu(), s, s.sigmoid()

    def probability(self, points: Float[Tensor, "points n width"]) -> Tensor:
        return self.read(points)[-1]

    def multipliers(self, x: Tensor, baselines: Tensor, gradient: Tensor) -> Tensor:
        """(3), with every local derivative the slope between the baseline and x."""
        w = self.w
        z1, a1, z2, a2, s, F = self.read(x[None])
        y1, b1, y2, b2, r, G = self.read(baselines)
        at_output = slope(s, r, F, G, F * (1 - F))[:, None, None] * self.share[:, None]
        at_relu = at_output * w["o_weight"][0] * slope(z2, y2, a2, b2, (z2 > 0).to(F.dtype))
        return at_relu @ w["l2_weight"] * slope(z1, y1, a1, b1, 1 - a1**2) @ w["l1_weight"]


def slope(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor, derivative: Tensor) -> Tensor:
    step = x - x0
    flat = step.abs() < 1e-10
    return torch.where(flat, derivative, (y - y0) / torch.where(flat, 1, step))


@EXHIBIT.path
def attribute_bilstm(
    embedded: Float[Tensor, "batch n width"],
    baseline: Float[Tensor, "batch n width"],
    mask: Bool[Tensor, "batch n"],
    baselines2: Float[Tensor, "baselines n width"],
    shap_coefficients: Float[Tensor, "draws"],
    shap_choice: Int[Tensor, "draws"],
    lime_masks: Bool[Tensor, "masks n"],
    *,
    n_steps: int = 50,
    **weights: Tensor,
) -> dict[str, Tensor]:
    """See the reference. The points of all methods go through the network together."""
    draws = (baselines2, shap_coefficients, shap_choice, lime_masks)
    models = [BiLSTM(weights, m) for m in mask]
    with torch.no_grad():
        rows = [
            attribute(model, x, x0, *draws, n_steps)
            for model, x, x0 in zip(models, embedded, baseline)
        ]
        reads = [model.read(x[None]) for model, x in zip(models, embedded)]
    alpha = torch.cat([r[1] for r in reads])
    norms = alpha * torch.cat([r[2] for r in reads]).norm(dim=-1)
    return outputs(rows, mask, alpha) | {"attn_weights": alpha, "attn_norms": norms}


@EXHIBIT.path
def attribute_mlp(
    embedded: Float[Tensor, "batch n width"],
    baseline: Float[Tensor, "batch n width"],
    mask: Bool[Tensor, "batch n"],
    baselines2: Float[Tensor, "baselines n width"],
    shap_coefficients: Float[Tensor, "draws"],
    shap_choice: Int[Tensor, "draws"],
    lime_masks: Bool[Tensor, "masks n"],
    *,
    n_steps: int = 50,
    **weights: Tensor,
) -> dict[str, Tensor]:
    """See the reference."""
    draws = (baselines2, shap_coefficients, shap_choice, lime_masks)
    with torch.no_grad():
        rows = [
            attribute(MLP(weights, m), x, x0, *draws, n_steps)
            for m, x, x0 in zip(mask, embedded, baseline)
        ]
    return outputs(rows, mask)


def attribute(
    model: BiLSTM | MLP,
    x: Float[Tensor, "n width"],
    x0: Float[Tensor, "n width"],
    baselines: Float[Tensor, "baselines n width"],
    coefficients: Float[Tensor, "draws"],
    choice: Int[Tensor, "draws"],
    lime_masks: Bool[Tensor, "masks n"],
    n_steps: int,
) -> dict[str, Tensor]:
    """Every raw attribution (n, width) of one instance: one pass with gradients, one without."""
    n, width = x.shape
    nodes = np.polynomial.legendre.leggauss(n_steps)
    z, omega = (torch.as_tensor(part).to(x) for part in nodes)
    g = ((1 + z) / 2)[:, None, None]
    u, b = coefficients[:, None, None], baselines[choice]
    points = torch.cat([x[None], x0 + g * (x - x0), u * x + (1 - u) * b]).detach()
    with torch.enable_grad():
        points.requires_grad_()
        F_at = model.probability(points)
        (gradient,) = torch.autograd.grad(F_at.sum(), points)
    here, along, at_draws = gradient.split([1, n_steps, len(u)])

    keep = torch.cat([lime_masks, ~torch.eye(n, dtype=torch.bool, device=x.device)])
    moved = torch.where(keep[..., None], x, x0)  # (masks + n, n, width)
    F_moved, F0 = model.probability(torch.cat([moved, x0[None]])).split([len(moved), 1])
    y, F_without = F_moved.split([len(lime_masks), n])
    seen = moved[: len(lime_masks)].flatten(1)
    size = seen.norm(dim=1).clamp(min=1e-8) * x.norm().clamp(min=1e-8)
    pi = (-((1 - seen @ x.flatten() / size) ** 2) / 2).exp()
    others = model.multipliers(x, torch.cat([x0[None], baselines]), here[0])
    F = F_at.detach()[0]
    return {
        "prediction": F,
        "prediction_baseline": F0[0],
        "intgrad": (x - x0) * torch.tensordot((omega / 2), along, 1),
        "inputxgrad": x * here[0],
        "deeplift": others[0] * (x - x0),
        "deepshap": (others[1:] * (x - baselines)).mean(0),
        "gradshap": ((x - b) * at_draws).mean(0),
        "ablation": (F - F_without)[:, None].expand(n, width),
        "lime": ridge(lime_masks, y, pi).to(x.dtype)[:, None].expand(n, width),
    }


def ridge(
    masks: Bool[Tensor, "masks n"], y: Float[Tensor, "masks"], pi: Float[Tensor, "masks"]
) -> Float[Tensor, "n"]:
    """The minimum of (6), in float64; the intercept is taken out by centring."""
    Z, y, pi = masks.double(), y.double() - y[0].double(), pi.double()
    Z = Z - pi @ Z / pi.sum()
    gram = Z.T @ (pi[:, None] * Z) + torch.eye(Z.shape[1], dtype=Z.dtype, device=Z.device)
    return torch.linalg.solve(gram, Z.T @ (pi * (y - pi @ y / pi.sum())))


def outputs(
    rows: list[dict[str, Tensor]],
    mask: Bool[Tensor, "batch n"],
    attention: Float[Tensor, "batch n"] | None = None,
) -> dict[str, Any]:
    """Raw and token scores of all instances, and tau between the methods on the first one."""
    both = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    F, F0 = both.pop("prediction"), both.pop("prediction_baseline")
    token = {
        name: (raw.mean(-1) if name in ("ablation", "lime") else raw.sum(-1)).abs()
        for name, raw in both.items()
    }
    compared = [token[name][0] for name in COMPARED]
    if attention is not None:
        compared.insert(0, attention[0])
    tau = tau_matrix(torch.stack(compared)[:, mask[0]])
    above = torch.ones_like(tau).triu(1) > 0
    return (
        {"prediction": F[:, None], "prediction_baseline": F0[:, None]}
        | {f"raw_{name}": raw for name, raw in both.items()}
        | {f"tok_{name}": score for name, score in token.items()}
        | {"tau_matrix": tau.to(F.dtype), "undefined": tau[above].isnan().sum()}
    )


def tau_matrix(scores: Float[Tensor, "methods n"]) -> Float[Tensor, "methods methods"]:
    """tau-b of every pair of score vectors, rounded to 12 significant digits (5 in float32)."""
    digits = 5 if scores.dtype == torch.float32 else 12
    wide = scores.double()
    size = torch.where(wide == 0, 1, wide.abs())
    scale = 10.0 ** (digits - 1 - size.log10().floor())
    rounded = (wide * scale).round() / scale
    s = torch.stack([signs(row).flatten() for row in rounded]).double()  # (methods, n n)
    differ = s.abs().sum(1)
    return ratio(s @ s.T, differ[:, None], differ[None])
