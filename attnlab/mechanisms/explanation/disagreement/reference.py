"""Agreement between explanations in NumPy (Neely et al. 2022; equation numbers of the card)."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from . import COMPARED, EXHIBIT
from .models import MLP, BiLSTM, sigmoid
from .ranks import (
    bucket_positions,
    dense_ranks,
    falls,
    pearson,
    tau_b,
    tau_matrix,
    top_k_tau,
    undefined,
    weighted_tau,
)


@EXHIBIT.path
def agreement(
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "n"],
    ks: Int[np.ndarray, "tops"],
    alphas: Float[np.ndarray, "exponents"],
    *,
    p: float = 0.5,
) -> dict[str, Any]:
    """Every correlation of two score vectors: tau-b, Spearman, Pearson, weighted and top-k tau.

    Constant vectors give NaN (top-k: one bucket) and are counted in `undefined`.
    """
    nonzero = int(min(np.count_nonzero(a), np.count_nonzero(b)))
    constant = sum(bool((x == x[0]).all()) for x in (a, b))
    scores = {
        "kendall_tau": tau_b(a, b),
        "spearman_rho": pearson(bucket_positions(a), bucket_positions(b)),
        "pearson_r": pearson(a.astype(float), b.astype(float)),
        "weighted_tau": [weighted_tau(a, b, float(alpha)) for alpha in alphas],
        "topk_p05": [top_k_tau(a, b, k, 0.5) for k in ks],
        "topk_p10": [top_k_tau(a, b, k, 1.0) for k in ks],
        "topk": [top_k_tau(a, b, k, p) for k in ks],
        "topk_nonzero": [top_k_tau(a, b, nonzero, 0.5), nonzero],
        "bucket_order_a": bucket_positions(a),
    }
    return {name: np.asarray(value, a.dtype) for name, value in scores.items()} | {
        "top3_a": np.flatnonzero(dense_ranks(a) < 3),
        "undefined": np.asarray(constant),
    }


@EXHIBIT.path
def aggregate_attention(
    attention: Float[np.ndarray, "batch layers heads n n"],
    *,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """Average (10), rollout (8) and flow (9) of token 0. Rows of zeros (padding) become the identity."""
    A = with_residual(attention)  # (batch, layers, n, n)
    row = A[:, -1, 0]  # (batch, n): one row of the product, from the top layer down
    for layer in reversed(range(A.shape[1] - 1)):
        row = np.einsum("bj,bjk->bk", row, A[:, layer])
    flow = np.array([flows(a) for a in A]) if "flow_cls" in want else None
    return {
        "avg": attention.mean((1, 2)).max(-1),
        "rollout_cls": row,
        "flow_cls": None if flow is None else (flow / flow.sum(-1, keepdims=True)).astype(A.dtype),
    }


def with_residual(
    attention: Float[np.ndarray, "batch layers heads n n"],
) -> Float[np.ndarray, "batch layers n n"]:
    """A of (8): the heads' mean and the stream that passes by, rows summing to 1."""
    A = attention.mean(2) + np.eye(attention.shape[-1], dtype=attention.dtype)
    return A / A.sum(-1, keepdims=True)


def flows(A: Float[np.ndarray, "layers n n"]) -> list[float]:
    """(9): the maximum flow from (L, 0) to (0, t) for every t, by shortest augmenting paths."""
    layers, n = A.shape[:2]
    room = np.zeros((layers + 1, n, layers + 1, n))  # capacity left from (l, j) to (m, k)
    for layer in range(layers):
        room[layer + 1, :, layer] = A[layer]
    room = room.reshape((layers + 1) * n, (layers + 1) * n)
    return [max_flow(room, layers * n, target) for target in range(n)]


def max_flow(room: Float[np.ndarray, "nodes nodes"], source: int, target: int) -> float:
    """Edmonds-Karp; what a path uses up may be sent back along it."""
    room, total = room.copy(), 0.0
    while (path := shortest_path(room, source, target)) is not None:
        used = room[path[:-1], path[1:]].min()
        room[path[:-1], path[1:]] -= used
        room[path[1:], path[:-1]] += used
        total += float(used)
    return total


def shortest_path(room: np.ndarray, source: int, target: int) -> list[int] | None:
    """Nodes from source to target along edges with room, fewest first; None where there are none."""
    before = np.full(len(room), -1)
    before[source] = source
    waiting = deque([source])
    while waiting and before[target] < 0:
        node = waiting.popleft()
        fresh = np.flatnonzero((room[node] > 1e-15) & (before < 0))
        before[fresh] = node
        waiting.extend(fresh.tolist())
    if before[target] < 0:
        return None
    path = [target]
    while path[-1] != source:
        path.append(int(before[path[-1]]))
    return path[::-1]


@EXHIBIT.path
def self_attend(
    x: Float[np.ndarray, "batch n wide"],
    mask: Bool[np.ndarray, "batch n"] | None = None,
    *,
    n_heads: int,
    projection: str = "released",
    **lin: np.ndarray,
) -> dict[str, np.ndarray]:
    """Multi-head self-attention and the norms of what each key adds to each query.

    Keys outside the mask are hidden; queries are not. `released` multiplies the values by
    out_lin.weight without transposing it and cuts the columns of the result into heads; `standard`
    concatenates the heads first and applies the transpose, as the weight was trained.
    """
    batch, n, wide = x.shape

    def heads(y: np.ndarray) -> np.ndarray:  # -> (batch, heads, n, dim)
        return y.reshape(batch, n, n_heads, wide // n_heads).swapaxes(1, 2)

    def linear(name: str) -> np.ndarray:
        return x @ lin[f"{name}_lin_weight"].T + lin[f"{name}_lin_bias"]

    S = heads(linear("q")) @ heads(linear("k")).swapaxes(2, 3) / math.sqrt(wide / n_heads)
    if mask is not None:
        S = np.where(mask[:, None, None], S, -np.inf)
    alpha = np.exp(S - S.max(-1, keepdims=True))
    alpha /= alpha.sum(-1, keepdims=True)  # (batch, heads, n, n)

    W, v = lin["out_lin_weight"], linear("v")
    if projection == "released":
        F = heads(v @ W)
        written = alpha @ F
        context = written.swapaxes(1, 2).reshape(batch, n, wide)
    else:
        columns = W.T.reshape(n_heads, wide // n_heads, wide)  # each head's part of W^T
        F = heads(v) @ columns  # (batch, heads, n, wide)
        context = (alpha @ F).sum(1)
    norms = alpha * np.linalg.norm(F, axis=-1)[:, :, None]
    return {"context": context + lin["out_lin_bias"], "weights": alpha, "norms": norms}


@EXHIBIT.path
def attribute_bilstm(
    embedded: Float[np.ndarray, "batch n width"],
    baseline: Float[np.ndarray, "batch n width"],
    mask: Bool[np.ndarray, "batch n"],
    baselines2: Float[np.ndarray, "baselines n width"],
    shap_coefficients: Float[np.ndarray, "draws"],
    shap_choice: Int[np.ndarray, "draws"],
    lime_masks: Bool[np.ndarray, "masks n"],
    *,
    n_steps: int = 50,
    **weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """(2)-(7) of the BiLSTM, instance by instance. Outputs: raw_M (batch, n, width), tok_M (batch, n)."""
    models = [BiLSTM(weights, m) for m in mask]
    draws = (baselines2, shap_coefficients, shap_choice, lime_masks)
    rows = [
        attribute(model, x, x0, *draws, n_steps) for model, x, x0 in zip(models, embedded, baseline)
    ]
    reads = [model.read(x[None]) for model, x in zip(models, embedded)]
    alpha = np.concatenate([r.alpha for r in reads])
    norms = alpha * np.concatenate([np.linalg.norm(r.h, axis=-1) for r in reads])
    return outputs(rows, mask, alpha) | {"attn_weights": alpha, "attn_norms": norms}


@EXHIBIT.path
def attribute_mlp(
    embedded: Float[np.ndarray, "batch n width"],
    baseline: Float[np.ndarray, "batch n width"],
    mask: Bool[np.ndarray, "batch n"],
    baselines2: Float[np.ndarray, "baselines n width"],
    shap_coefficients: Float[np.ndarray, "draws"],
    shap_choice: Int[np.ndarray, "draws"],
    lime_masks: Bool[np.ndarray, "masks n"],
    *,
    n_steps: int = 50,
    **weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """(2)-(6) of the MLP, whose tanh, relu and sigmoid DeepLIFT rescales."""
    draws = (baselines2, shap_coefficients, shap_choice, lime_masks)
    rows = [
        attribute(MLP(weights, m), x, x0, *draws, n_steps)
        for m, x, x0 in zip(mask, embedded, baseline)
    ]
    return outputs(rows, mask)


def attribute(
    model: BiLSTM | MLP,
    x: Float[np.ndarray, "n width"],
    x0: Float[np.ndarray, "n width"],
    baselines: Float[np.ndarray, "baselines n width"],
    coefficients: Float[np.ndarray, "draws"],
    choice: Int[np.ndarray, "draws"],
    lime_masks: Bool[np.ndarray, "masks n"],
    n_steps: int,
) -> dict[str, np.ndarray]:
    """Every raw attribution (n, width) of one instance, and the two predictions."""
    n, dtype = len(x), x.dtype
    z, omega = np.polynomial.legendre.leggauss(n_steps)
    g, w = ((1 + z) / 2).astype(dtype), (omega / 2).astype(dtype)
    path = x0 + g[:, None, None] * (x - x0)  # (n_steps, n, width)
    mean_gradient = np.einsum("m,mtw->tw", w, model.gradient(path))

    b = baselines[choice]  # (draws, n, width)
    u = coefficients[:, None, None]
    deepshap = [model.multipliers(x, one) * (x - one) for one in baselines]

    F, F0 = model.probability(np.stack([x, x0]))
    without = np.where(np.eye(n, dtype=bool)[..., None], x0, x)  # (n, n, width): token t replaced
    ablated = F - model.probability(without)
    return {
        "prediction": F,
        "prediction_baseline": F0,
        "intgrad": (x - x0) * mean_gradient,  # (2)
        "inputxgrad": x * model.gradient(x[None])[0],
        "deeplift": model.multipliers(x, x0) * (x - x0),  # (3)
        "deepshap": np.mean(deepshap, axis=0),  # (4)
        "gradshap": ((x - b) * model.gradient(u * x + (1 - u) * b)).mean(0),  # (5)
        "ablation": np.tile(ablated[:, None], (1, x.shape[1])),
        "lime": np.tile(lime(model, x, x0, lime_masks)[:, None], (1, x.shape[1])),  # (6)
    }


def lime(
    model: BiLSTM | MLP, x: np.ndarray, x0: np.ndarray, masks: Bool[np.ndarray, "masks n"]
) -> Float[np.ndarray, "n"]:
    """(6): the weights of a ridge regression on which tokens were kept, near masks weighing more."""
    points = np.where(masks[..., None], x, x0)  # (masks, n, width)
    size = np.linalg.norm(points.reshape(len(masks), -1), axis=1)
    cosine = np.einsum("ptw,tw->p", points, x)
    cosine = cosine / np.maximum(size, 1e-8) / max(float(np.linalg.norm(x)), 1e-8)
    return ridge(masks, model.probability(points), np.exp(-((1 - cosine) ** 2) / 2))


def ridge(
    masks: Bool[np.ndarray, "masks n"],
    y: Float[np.ndarray, "masks"],
    pi: Float[np.ndarray, "masks"],
) -> Float[np.ndarray, "n"]:
    """argmin_w sum pi (y - b - w.z)^2 + |w|^2: centring takes the unpenalised intercept out.

    From y[0] on first, so that a constant y gives zeros and not rounding errors, which rank."""
    Z, y, pi = masks.astype(np.float64), y.astype(np.float64), pi.astype(np.float64)
    y = y - y[0]
    Z = Z - pi @ Z / pi.sum()
    gram = Z.T @ (pi[:, None] * Z) + np.eye(Z.shape[1])
    return np.linalg.solve(gram, Z.T @ (pi * (y - pi @ y / pi.sum())))


def outputs(
    rows: list[dict[str, np.ndarray]],
    mask: Bool[np.ndarray, "batch n"],
    attention: Float[np.ndarray, "batch n"] | None = None,
) -> dict[str, np.ndarray]:
    """Raw and token scores of all instances, and tau between the methods on the first one."""
    both = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    F, F0 = both.pop("prediction"), both.pop("prediction_baseline")
    dtype = F.dtype
    # the absolute value is taken after the sum; all entries of a token are equal in the last two
    token = {
        name: np.abs(raw.mean(-1) if name in ("ablation", "lime") else raw.sum(-1)).astype(dtype)
        for name, raw in both.items()
    }
    compared = [token[name][0] for name in COMPARED]
    if attention is not None:
        compared.insert(0, attention[0])
    tau = tau_matrix(np.stack(compared)[:, mask[0]])
    return (
        {"prediction": F[:, None], "prediction_baseline": F0[:, None]}
        | {f"raw_{name}": raw.astype(dtype) for name, raw in both.items()}
        | {f"tok_{name}": score for name, score in token.items()}
        | {"tau_matrix": tau.astype(dtype), "undefined": np.asarray(undefined(tau))}
    )


@EXHIBIT.path
def faithfulness(
    token_ids: Int[np.ndarray, "n"],
    scores: Float[np.ndarray, "n"],
    rationale: Bool[np.ndarray, "n"],
    w: Float[np.ndarray, "vocabulary"],
    u: Float[np.ndarray, "vocabulary vocabulary"],
    *,
    thresholds: list[float],
    mask_id: int = 0,
    top_k_rationale: int = 5,
) -> dict[str, np.ndarray]:
    """AOPC, tau with leave-one-out, and agreement with a person, under a bigram classifier.

    Following ERASER (DeYoung et al. 2020) as ferret implements it. AUPRC is NaN where nobody marked
    a token, tau-LOO where it is undefined.
    """
    n = len(token_ids)

    def P(x: np.ndarray) -> float:
        return float(sigmoid(w[x].sum(dtype=float) + u[x[:-1], x[1:]].sum(dtype=float)))

    whole = P(token_ids)
    order = np.argsort(scores, kind="stable")[::-1]
    comprehensive, sufficient, last = [], [], None
    for q in thresholds:
        r = np.zeros(n, bool)
        r[order[: int(q * n)]] = True
        r &= scores > 0
        if not r.any() or (last is not None and (r == last).all()):
            continue
        last = r
        without = P(token_ids[~r]), P(np.where(r, mask_id, token_ids))
        alone = P(token_ids[r]), P(np.where(r, token_ids, mask_id))
        comprehensive.append([whole - each for each in without])
        sufficient.append([whole - each for each in alone])
    deleted, masked = np.mean(comprehensive, axis=0) if comprehensive else (0.0, 0.0)
    kept, kept_masked = np.mean(sufficient, axis=0) if sufficient else (1.0, 1.0)

    loo = falls(whole, np.array([P(np.delete(token_ids, i)) for i in range(n)]))
    hard = np.zeros(n, bool)
    hard[order[:top_k_rationale]] = True
    hard &= scores > 0
    both, either = (hard & rationale).sum(), (hard | rationale).sum()
    f1 = 2 * both / max(1, hard.sum() + rationale.sum())
    made = {
        "aopc_comprehensiveness": deleted,
        "aopc_comprehensiveness_mask": masked,
        "aopc_sufficiency": kept,
        "aopc_sufficiency_mask": kept_masked,
        "tau_loo": tau_b(scores, loo) if n > 1 else math.nan,
        "auprc": auprc(scores, rationale),
        "token_f1_top5": f1,
        "token_iou_top5": both / max(1, either),
    }
    return {name: np.asarray(value, scores.dtype) for name, value in made.items()}


def auprc(scores: Float[np.ndarray, "n"], rationale: Bool[np.ndarray, "n"]) -> float:
    """Area under precision over recall at every distinct threshold, from recall 0, precision 1."""
    if not rationale.any():
        return math.nan
    thresholds = np.unique(scores)[::-1]
    chosen = scores[None] >= thresholds[:, None]  # (thresholds, n)
    true = (chosen & rationale).sum(1)
    precision = np.append(1, true / chosen.sum(1))
    recall = np.append(0, true / rationale.sum())
    return float(np.trapezoid(precision, recall))
