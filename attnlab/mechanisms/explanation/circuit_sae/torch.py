"""Circuits by sparse autoencoders in PyTorch: autograd and Adam, sorted pairs for the counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import EXHIBIT

AXIS = {"rows": 1, "columns": 0}
SORTED = 2**24  # pairs of codes sorted at a time


@EXHIBIT.path
def find_circuit(
    streams: Float[Tensor, "N n d"],
    permutation: Int[Tensor, "N"],
    enc_weight: Float[Tensor, "F d"],
    enc_bias: Float[Tensor, "F"],
    dec_weight: Float[Tensor, "d F"],
    tied_bias: Float[Tensor, "d"],
    circuit_heads: Int[Tensor, "m"] | None = None,
    *,
    n_layers: int,
    n_heads: int,
    n_train: int = 10,
    n_epochs: int = 500,
    lr: float = 1e-3,
    lam: float = 0.02,
    dec_unit: str = "rows",
) -> dict[str, Tensor | None]:
    """See the reference. Gradients flow through the initial outputs and train_loss[0]: the first
    through the rescaling (3), so that they are the projected ones; training is not unrolled."""
    axis = AXIS[dec_unit]
    initial = (unit(enc_weight, 1), enc_bias, unit(dec_weight, axis), tied_bias)
    a, xhat = forward(streams[:2], *initial)
    made: dict[str, Tensor | None] = {
        "init_activations_first2": a,
        "init_reconstruction_first2": xhat,
        "init_loss": loss(streams, initial, lam),
    }
    rows = streams[permutation[:n_train]]
    trained, losses = train(rows.detach(), initial, axis, n_epochs, lr, lam)
    if n_epochs:
        losses = torch.cat([loss(rows, initial, lam)[None], losses[1:]])

    with torch.no_grad():
        a = forward(streams.detach(), *trained)[0]
        top = a.topk(min(2, a.shape[-1]), dim=-1).values
        # argmax takes any of equal values: the first is where the running count of hits is 1
        codes = (a == top[..., :1]).to(torch.uint8).argmax(-1)
        margin = (top[..., 0] - top[..., 1]).min() if a.shape[-1] > 1 else a.new_tensor(torch.inf)
        u = node_counts(codes)[0].to(a.dtype)
        made |= dict(zip((f"trained_{name}" for name in NAMES), trained))
        made |= {
            "train_loss": losses,
            "codes": codes,
            "code_margin_min": margin,
            "node_softmax": u.softmax(0),
            "node_auc": None if circuit_heads is None else auc(u, members(circuit_heads, len(u))),
        }
    return made


NAMES = ("enc_weight", "enc_bias", "dec_weight", "tied_bias")


@EXHIBIT.path
def score_codes(
    codes: Int[Tensor, "N n"],
    circuit_heads: Int[Tensor, "m"] | None = None,
    median_pred: Bool[Tensor, "n_layers n_heads"] | None = None,
    *,
    n_layers: int,
    n_heads: int,
    edge_k: list[int] | None = None,
    n_features: int | None = None,
) -> dict[str, Any]:
    """See the reference."""
    n = codes.shape[1]
    if codes.max() > 4 * codes.numel() + 1024:  # wider than tables should be
        codes = codes.unique(return_inverse=True)[1]
    truth = None if circuit_heads is None else members(circuit_heads, n)
    pos, neg, union = (x.double() for x in node_counts(codes))
    made: dict[str, Any] = {}
    for suffix, divisor in (("", torch.ones_like(union)), ("_norm", union)):
        u = pos / divisor
        made[f"unique_pos{suffix}"] = u.reshape(n_layers, -1)
        made[f"unique_neg{suffix}"] = (neg / divisor).reshape(n_layers, -1)
        made[f"node_softmax{suffix}"] = u.softmax(0)
        if truth is not None:
            fpr, tpr = roc(u, truth)
            made |= {f"node_fpr{suffix}": fpr, f"node_tpr{suffix}": tpr}
            made[f"node_auc{suffix}"] = torch.trapezoid(tpr, fpr)
            both = tpr + 1 - fpr
            made[f"node_f1curve_max{suffix}"] = (
                2 * tpr * (1 - fpr) / both.where(both > 0, 1.0)
            ).max()
    made["node_softmax_across_layer"] = made["unique_pos"].softmax(0).flatten()
    if median_pred is not None and truth is not None:
        made["f1_precision_recall_tp_fp_tn_fn"] = true_f1(median_pred.flatten(), truth)

    U, total = edge_counts(codes)  # (n, n) each
    values, falling = U.flatten().sort(descending=True, stable=True)  # ties by index
    heads = torch.stack([falling // n, falling % n], dim=1).flatten()
    made |= {
        "edge_unique": U.double(),
        "edge_unique_norm": U / total.clamp(min=1).double(),
        "edge_pairs_sorted_values": values.double(),
        "edge_softmax_k": {},
        "edge_auc_k": None if truth is None else {},
    }
    for k in [n * n // 2] if edge_k is None else edge_k:
        s = heads[:k].bincount(minlength=n).double()
        made["edge_softmax_k"][k] = s.softmax(0)
        if truth is not None:
            made["edge_auc_k"][k] = auc(s, truth)
    return made


def unit(w: Tensor, axis: int) -> Tensor:
    length = torch.linalg.vector_norm(w, dim=axis, keepdim=True)
    return w / length.where(length > 0, 1.0)


def forward(
    x: Float[Tensor, "*lead d"], W_e: Tensor, b_e: Tensor, W_d: Tensor, t: Tensor
) -> tuple[Float[Tensor, "*lead F"], Float[Tensor, "*lead d"]]:
    """(1)"""
    a = ((x - t) @ W_e.T + b_e).relu()
    return a, a @ W_d.T + t


def loss(x: Float[Tensor, "*lead d"], weights: Sequence[Tensor], lam: float) -> Tensor:
    """(2)"""
    a, xhat = forward(x, *weights)
    return (xhat - x).square().mean() + lam * a.sum(-1).mean()


def train(
    rows: Float[Tensor, "n_train n d"],
    initial: tuple[Tensor, ...],
    axis: int,
    n_epochs: int,
    lr: float,
    lam: float,
) -> tuple[list[Tensor], Float[Tensor, "n_epochs"]]:
    """(2), (3) by autograd and Adam; weights after the last step, rescaled once more."""
    weights = [w.detach().clone().requires_grad_() for w in initial]
    W_e, _, W_d, _ = weights
    adam = torch.optim.Adam(weights, lr=lr)
    losses = rows.new_empty(n_epochs)
    for epoch in range(n_epochs):
        rescale(W_e, W_d, axis)
        with torch.enable_grad():
            value = loss(rows, weights, lam)
        adam.zero_grad()
        value.backward()
        for w, along in ((W_e, 1), (W_d, axis)):
            assert w.grad is not None
            w.grad -= (w.grad * w.detach()).sum(along, keepdim=True) * w.detach()
        adam.step()
        losses[epoch] = value.detach()
    rescale(W_e, W_d, axis)
    return [w.detach() for w in weights], losses


@torch.no_grad()
def rescale(W_e: Tensor, W_d: Tensor, axis: int) -> None:
    W_e.copy_(unit(W_e, 1))
    W_d.copy_(unit(W_d, axis))


def seen(codes: Int[Tensor, "prompts n"], F: int) -> Bool[Tensor, "n F"]:
    table = torch.zeros(codes.shape[1], F, dtype=torch.bool, device=codes.device)
    return table.scatter_(1, codes.T, True)


def node_counts(codes: Int[Tensor, "N n"]) -> tuple[Tensor, Tensor, Tensor]:
    """(5): codes on positives only, on negatives only, in all."""
    half, F = len(codes) // 2, int(codes.max()) + 1
    pos, neg = seen(codes[:half], F), seen(codes[half:], F)
    return (pos & ~neg).sum(1), (neg & ~pos).sum(1), (pos | neg).sum(1)


def edge_counts(codes: Int[Tensor, "N n"]) -> tuple[Int[Tensor, "n n"], Int[Tensor, "n n"]]:
    """(7): pairs on positives only; pairs on positives plus pairs on negatives; diagonals 0."""
    (N, n), F = codes.shape, int(codes.max()) + 1
    U, total = codes.new_zeros(2, n, n)
    step = max(1, SORTED // (N * n))
    for g in range(0, n, step):
        pairs = codes[:, g : g + step, None] * F + codes[:, None]  # (N, step, n)
        pos, neg = distinct(pairs[: N // 2]), distinct(pairs[N // 2 :])
        U[g : g + step] = distinct(pairs) - neg
        total[g : g + step] = pos + neg
    return U.fill_diagonal_(0), total.fill_diagonal_(0)


def distinct(pairs: Int[Tensor, "prompts step n"]) -> Int[Tensor, "step n"]:
    return 1 + (pairs.sort(0).values.diff(dim=0) != 0).sum(0)


def members(circuit_heads: Int[Tensor, "m"], n: int) -> Bool[Tensor, "n"]:
    truth = torch.zeros(n, dtype=torch.bool, device=circuit_heads.device)
    truth[circuit_heads] = True
    return truth


def roc(scores: Float[Tensor, "n"], truth: Bool[Tensor, "n"]) -> tuple[Tensor, Tensor]:
    """See curves.roc."""
    falling, order = scores.sort(descending=True, stable=True)
    hit = truth[order]
    last = torch.cat([falling.diff() != 0, hit.new_ones(1)])
    tps, fps = hit.cumsum(0)[last], (~hit).cumsum(0)[last]
    if len(tps) > 2:
        bends = (tps.diff(n=2) != 0) | (fps.diff(n=2) != 0)
        kept = torch.cat([bends.new_ones(1), bends, bends.new_ones(1)])
        tps, fps = tps[kept], fps[kept]
    fpr, tpr = (torch.cat([x.new_zeros(1), x]).to(scores.dtype) / x[-1] for x in (fps, tps))
    return fpr, tpr


def auc(scores: Float[Tensor, "n"], truth: Bool[Tensor, "n"]) -> Tensor:
    fpr, tpr = roc(scores, truth)
    return torch.trapezoid(tpr, fpr)


def true_f1(predicted: Bool[Tensor, "n"], truth: Bool[Tensor, "n"]) -> Float[Tensor, "7"]:
    kinds = (predicted & truth, predicted & ~truth, ~predicted & ~truth, ~predicted & truth)
    tp, fp, tn, fn = (kind.sum().double() for kind in kinds)
    f1, precision = 2 * tp / (2 * tp + fp + fn).clamp(min=1), tp / (tp + fp).clamp(min=1)
    return torch.stack([f1, precision, tp / (tp + fn), tp, fp, tn, fn])
