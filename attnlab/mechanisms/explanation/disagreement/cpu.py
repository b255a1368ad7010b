"""Agreement between explanations on the CPU: pairs counted on integer ranks, every layer of attention
read once, and all methods' points sent through the network together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.kernels.cpu import attention_graph, scratch
from attnlab.kernels.cpu.bilstm import read_points, to_embedding
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.exp import sigmoid, tanh
from attnlab.kernels.cpu.flash import flash_attention
from attnlab.kernels.cpu.kendall import kendall_tau
from attnlab.kernels.cpu.product import linear, product
from attnlab.kernels.cpu.runtime import (
    contiguous,
    fetch_add,
    run_workers,
    single_threaded_blas,
    threads,
    worker,
)
from attnlab.layers.heads import merge_heads, split_heads

from . import COMPARED, EXHIBIT
from .models import MLP
from .models import sigmoid as probability_of
from .ranks import falls, pearson, significant, undefined

ROWS = 32  # rows of pairs a worker takes at a time


@EXHIBIT.path
def agreement(
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "n"],
    ks: Int[np.ndarray, "tops"],
    alphas: Float[np.ndarray, "exponents"],
    *,
    p: float = 0.5,
) -> dict[str, Any]:
    """See the reference. All correlations but Pearson's come from one pass over the pairs of ranks."""
    n, dtype = len(a), a.dtype
    dense = [np.unique(-x, return_inverse=True)[1].astype(np.int32) for x in (a, b)]
    nonzero = min(np.count_nonzero(a), np.count_nonzero(b))
    tops = np.append(ks, nonzero).astype(np.int32)
    rows = np.zeros((3, n), np.int64)  # of sign products, of pairs that differ in a, in b
    above = np.zeros((2, n), np.int64)
    counts = np.zeros((n, len(tops), 3), np.int64)  # opposite, tied in one, all
    run_workers(
        count_pairs, *dense, tops, rows, above, counts, np.zeros(1, np.int64),
        workers=threads() if n > 512 else 1,
    )  # fmt: skip
    opposite, tied, pairs = counts.sum(0).T

    def ratio(w: np.ndarray | float) -> float:  # pairs weigh w_i + w_j; sums run over ordered pairs
        balance, differ_a, differ_b = (float((w * row).sum()) for row in rows)
        under = differ_a * differ_b
        return balance / math.sqrt(under) if under else math.nan

    def top(penalty: float) -> np.ndarray:
        return 1 - 2 * (opposite + penalty * tied) / np.maximum(1, pairs)

    taus = np.zeros((2, len(alphas)))
    for way, (first, then) in enumerate(((a, b), (b, a))):
        rank = np.empty(n)
        rank[np.lexsort((then, first))[::-1]] = np.arange(n)
        taus[way] = [ratio((1 + rank) ** -float(alpha)) for alpha in alphas]
    ties = [n - row for row in rows[1:]]  # elements equal to each, itself included
    positions = [up + (tie + 1) / 2 for up, tie in zip(above, ties)]
    scores = {
        "kendall_tau": ratio(1.0),
        "spearman_rho": pearson(*positions),
        "pearson_r": pearson(a.astype(float), b.astype(float)),
        "weighted_tau": taus.mean(0),
        "topk_p05": top(0.5)[:-1],
        "topk_p10": top(1.0)[:-1],
        "topk": top(p)[:-1],
        "topk_nonzero": [top(0.5)[-1], nonzero],
        "bucket_order_a": positions[0],
    }
    return {name: np.asarray(value, dtype) for name, value in scores.items()} | {
        "top3_a": np.flatnonzero(dense[0] < 3),
        "undefined": np.asarray(sum(int(d.max() == 0) for d in dense)),
    }


@worker
def count_pairs(a, b, tops, rows, above, counts, counter):
    """One worker's share: of each element i the sums over all others, of top-k pairs those j < i.

    a, b: dense ranks, 0 the best. An item is in the top k if its rank is under k.
    """
    n = a.size
    while True:
        begin = fetch_add(counter, ROWS)
        if begin >= n:
            break
        for i in range(begin, min(begin + ROWS, n)):
            x, y = a[i], b[i]
            signs, in_a, in_b, up_a, up_b = 0, 0, 0, 0, 0
            for j in range(n):
                over_a, under_a = a[j] < x, a[j] > x
                over_b, under_b = b[j] < y, b[j] > y
                signs += (over_a - under_a) * (over_b - under_b)
                in_a += over_a + under_a
                in_b += over_b + under_b
                up_a += over_a
                up_b += over_b
            rows[0, i], rows[1, i], rows[2, i] = signs, in_a, in_b
            above[0, i], above[1, i] = up_a, up_b
            for c in range(tops.size):
                k = tops[c]
                mine_a, mine_b = x < k, y < k
                if not (mine_a or mine_b):
                    continue
                opposite, tied, pairs = 0, 0, 0
                for j in range(i):
                    pair = (mine_a & (b[j] < k)) | (mine_b & (a[j] < k))
                    against = ((a[j] < x) & (b[j] > y)) | ((a[j] > x) & (b[j] < y))
                    one = (a[j] == x) != (b[j] == y)
                    opposite += pair & against
                    tied += pair & one
                    pairs += pair
                counts[i, c, 0], counts[i, c, 1], counts[i, c, 2] = opposite, tied, pairs


@EXHIBIT.path
def aggregate_attention(
    attention: Float[np.ndarray, "batch layers heads n n"],
    *,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference."""
    flow = None
    if "flow_cls" in want:
        capacity = attention.mean(2, dtype=np.float64) + np.eye(attention.shape[-1])
        capacity /= capacity.sum(-1, keepdims=True)
        flow = attention_graph.attention_flow(capacity)
        flow = (flow / flow.sum(-1, keepdims=True)).astype(attention.dtype)
    return {
        "avg": attention_graph.strongest_key(attention),
        "rollout_cls": attention_graph.rollout_row(attention),
        "flow_cls": flow,
    }


@EXHIBIT.path
def self_attend(
    x: Float[np.ndarray, "batch n wide"],
    mask: Bool[np.ndarray, "batch n"] | None = None,
    *,
    n_heads: int,
    projection: str = "released",
    want: frozenset[str] = frozenset(),
    **lin: np.ndarray,
) -> dict[str, np.ndarray | None]:
    """See the reference. Weights and norms, n x n of them, are made only when asked for."""
    q, k, v = (linear(x, lin[f"{name}_lin_weight"]) + lin[f"{name}_lin_bias"] for name in "qkv")
    released = projection == "released"
    W, bias = lin["out_lin_weight"], lin["out_lin_bias"]
    q, k = split_heads(q, n_heads), split_heads(k, n_heads)
    values = split_heads(product(v, W) if released else v, n_heads)
    seen = None if mask is None else mask[:, None, None]
    written, lse = flash_attention(q, k, values, mask=seen)
    context = merge_heads(written)
    context = (context if released else linear(context, W)) + bias
    weights = norms = None
    if want & {"weights", "norms"}:
        scores = q @ k.swapaxes(2, 3)
        scores *= q.shape[-1] ** -0.5
        weights = np.exp(scores - lse[..., None])
        weights = weights if seen is None else np.where(seen, weights, 0)
    if "norms" in want and weights is not None:
        F = values if released else values @ W.T.reshape(n_heads, -1, W.shape[0])
        norms = weights * np.linalg.norm(F, axis=-1)[:, :, None]
    return {"context": context, "weights": weights, "norms": norms}


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
    """See the reference. Gradients stay pre-activations until a method's points are summed."""
    n = mask.shape[1]
    rows, attended = [], []
    graded, coefficient, base = along(n, shap_coefficients, shap_choice, n_steps)
    moved = np.concatenate([np.zeros((1, n)), 1 - np.eye(n), lime_masks])
    coefficient = np.concatenate([coefficient, moved])
    base = np.append(base, np.zeros(len(moved), np.int64))
    for x, x0, seen in zip(embedded, baseline, mask):
        baselines = np.concatenate([x0[None], baselines2])
        read = read_points(x, baselines, coefficient, base, graded, seen, weights)
        sums = summed(read.dz, shap_choice, len(baselines2), n_steps)
        here, mean, *draws = to_embedding(sums, weights)
        F0, without, y = np.split(read.F[graded:], [1, 1 + n])
        rows.append(
            {
                "prediction": read.F[0],
                "prediction_baseline": F0[0],
                "ablation": read.F[0] - without,
                "lime": lime(x, x0, lime_masks, y),
                "deeplift": here * (x - x0),
                "deepshap": here * (x - baselines2.mean(0)),
            }
            | gradients(x, baselines, here, mean, draws)
        )
        attended.append((read.alpha[0], read.norm[0]))
    alpha, norms = (np.stack(part) for part in zip(*attended))
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
    """See the reference. Tokens meet only in the mean: a text of kept and replaced tokens is a sum of
    numbers known from x and the baseline, so LIME and ablation need no further pass."""
    n, dtype = mask.shape[1], embedded.dtype
    rows = []
    graded, coefficient, base = along(n, shap_coefficients, shap_choice, n_steps)
    for x, x0, seen in zip(embedded, baseline, mask):
        model = MLP(weights, seen)
        share = model.share.astype(dtype)
        baselines = np.concatenate([x0[None], baselines2])
        z = linear(np.concatenate([x[None], baselines]), weights["l1_weight"]) + weights["l1_bias"]
        F, back = scratch.empty(graded, dtype), scratch.empty((graded, n, z.shape[2]), dtype)
        with single_threaded_blas():
            run_workers(
                mlp_gradients,
                *(z[0], contiguous(z[1:]), contiguous(coefficient, dtype), base),
                *(contiguous(weights["l2_weight"].T), weights["l2_weight"], weights["l2_bias"]),
                *(weights["o_weight"][0], weights["o_bias"], share),
                *(F, back, np.zeros(1, np.int64)),
                workers=threads() if graded * n * z.shape[2] ** 2 > 2**16 else 1,
            )
        sums = summed(back, shap_choice, len(baselines2), n_steps)
        here, mean, *draws = product(sums, weights["l1_weight"])

        a2 = np.maximum(linear(np.tanh(z[:2]), weights["l2_weight"]) + weights["l2_bias"], 0)
        kept, replaced = (
            a2 @ weights["o_weight"][0] * share
        )  # (n,): what each token adds to the logit
        start = weights["o_bias"][0]
        F0 = probability_of(start + replaced.sum())
        without = probability_of(start + kept.sum() - kept + replaced)
        y = probability_of(start + replaced.sum() + lime_masks @ (kept - replaced))
        deep = [model.multipliers(x, one) * (x - one) for one in baselines]
        rows.append(
            {
                "prediction": F[0],
                "prediction_baseline": F0,
                "ablation": F[0] - without,
                "lime": lime(x, x0, lime_masks, y),
                "deeplift": deep[0],
                "deepshap": np.mean(deep[1:], axis=0),
            }
            | gradients(x, baselines, here, mean, draws)
        )
    return outputs(rows, mask)


@worker
def mlp_gradients(zx, zb, coefficient, base, l2_t, l2, b2, o, o_bias, share, F, back, counter):
    """One worker's share of the points: F, and dF with respect to the first layer's pre-activations."""
    points, n = coefficient.shape
    kind, hidden = zx.dtype, o.size
    one = kind.type(1)
    a1, z2 = scratch.tile((n, hidden), kind), scratch.tile((n, hidden), kind)
    put = np.zeros(2, kind)
    put[0] = 1
    while True:
        p = fetch_add(counter, 1)
        if p >= points:
            break
        for t in range(n):
            low, high, c = zb[base[p], t], zx[t], coefficient[p, t]
            for k in range(hidden):
                a1[t, k] = tanh(low[k] + c * (high[k] - low[k]))
        gemm_nn(put, a1, l2_t, z2)
        logit = o_bias[0]
        for t in range(n):
            for k in range(hidden):
                z = z2[t, k] + b2[k]
                logit += share[t] * o[k] * max(z, kind.type(0))
                z2[t, k] = share[t] * o[k] if z > 0 else kind.type(0)
        F[p] = sigmoid(logit)
        gemm_nn(put, z2, l2, back[p])
        slope = F[p] * (one - F[p])
        for t in range(n):
            for k in range(hidden):
                back[p, t, k] *= slope * (one - a1[t, k] * a1[t, k])


def along(
    n: int, u: Float[np.ndarray, "draws"], choice: Int[np.ndarray, "draws"], n_steps: int
) -> tuple[int, np.ndarray, np.ndarray]:
    """The points whose gradients are asked for: x, the path of (2), the draws of (5).

    (how many, coefficient of x (points, n), number of the baseline (points,); 0 is the padding).
    """
    z = np.polynomial.legendre.leggauss(n_steps)[0]
    share = np.concatenate([[1.0], (1 + z) / 2, u])
    base = np.concatenate([np.zeros(1 + n_steps, np.int64), 1 + choice])
    return len(share), np.repeat(share[:, None], n, axis=1), base


def summed(
    each: Float[np.ndarray, "points *rest"], choice: np.ndarray, baselines: int, n_steps: int
) -> Float[np.ndarray, "sums *rest"]:
    """Derivatives at x, their mean along the path, and their sum over the draws of each baseline."""
    flat = each.reshape(len(each), -1)
    how = np.zeros((2 + baselines, len(each)), each.dtype)
    how[0, 0] = 1
    how[1, 1 : 1 + n_steps] = np.polynomial.legendre.leggauss(n_steps)[1] / 2
    how[2 + choice, 1 + n_steps + np.arange(len(choice))] = 1 / len(choice)
    return product(how, flat).reshape(len(how), *each.shape[1:])


def gradients(
    x: np.ndarray, baselines: np.ndarray, here: np.ndarray, mean: np.ndarray, draws: list
) -> dict[str, np.ndarray]:
    """Input x gradient, (2) and (5) from the summed gradients."""
    return {
        "intgrad": (x - baselines[0]) * mean,
        "inputxgrad": x * here,
        "gradshap": ((x - baselines[1:]) * np.stack(draws)).sum(0),
    }


def lime(
    x: np.ndarray, x0: np.ndarray, masks: Bool[np.ndarray, "masks n"], y: Float[np.ndarray, "masks"]
) -> Float[np.ndarray, "n"]:
    """(6). Cosines and norms are sums over tokens of numbers known from x and x'."""
    Z = masks.astype(np.float64)
    wide, wide0 = x.astype(np.float64), x0.astype(np.float64)
    own, cross, other = (wide * wide).sum(1), (wide * wide0).sum(1), (wide0 * wide0).sum(1)
    size = np.sqrt(np.maximum(other.sum() + Z @ (own - other), 0))
    cosine = (cross.sum() + Z @ (own - cross)) / np.maximum(size, 1e-8)
    cosine /= max(math.sqrt(own.sum()), 1e-8)
    pi = np.exp(-((1 - cosine) ** 2) / 2)
    Z = Z - pi @ Z / pi.sum()
    weighed = pi[:, None] * Z
    gram = product(contiguous(Z.T), weighed) + np.eye(len(x))
    y = y - y[0]  # a constant y gives zeros
    return np.linalg.solve(gram, weighed.T @ (y - pi @ y / pi.sum()))


def outputs(
    rows: list[dict[str, np.ndarray]],
    mask: Bool[np.ndarray, "batch n"],
    attention: Float[np.ndarray, "batch n"] | None = None,
) -> dict[str, np.ndarray]:
    """Raw and token scores of all instances, and tau between the methods on the first one."""
    both = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    F, F0 = both.pop("prediction"), both.pop("prediction_baseline")
    dtype, width = F.dtype, both["intgrad"].shape[2]
    one_number = ("ablation", "lime")  # a token
    token = {
        name: np.abs(raw if name in one_number else raw.sum(-1)).astype(dtype)
        for name, raw in both.items()
    }
    compared = [token[name][0] for name in COMPARED]
    if attention is not None:
        compared.insert(0, attention[0])
    scores = significant(np.stack(compared)[:, mask[0]])
    methods, tokens = scores.shape
    tau = np.full((methods, methods), math.nan)
    if tokens > 1:
        first, then = np.indices((methods, methods)).reshape(2, -1)
        tau = kendall_tau(scores[first], scores[then]).reshape(methods, methods)
    return (
        {"prediction": F[:, None], "prediction_baseline": F0[:, None].astype(dtype)}
        | {
            f"raw_{name}": (
                np.repeat(raw[..., None], width, axis=-1) if name in one_number else raw
            ).astype(dtype)
            for name, raw in both.items()
        }
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
    """See the reference. Leaving one token out changes three bigrams; precision and recall are
    cumulative sums over falling scores."""
    n = len(token_ids)

    def logit(x: np.ndarray) -> float:
        return float(w[x].sum(dtype=float) + u[x[:-1], x[1:]].sum(dtype=float))

    whole = logit(token_ids)
    order = np.argsort(scores, kind="stable")[::-1]
    positive = int((scores > 0).sum())
    asked, last = [], 0
    for q in thresholds:
        size = min(int(q * n), positive)
        if size in (0, last):
            continue
        last = size
        r = np.zeros(n, bool)
        r[order[:size]] = True
        removed = token_ids[~r], np.where(r, mask_id, token_ids)
        alone = token_ids[r], np.where(r, token_ids, mask_id)
        asked.append([logit(x) for x in (*removed, *alone)])
    drops = [0.0, 0.0, 1.0, 1.0]
    if asked:
        drops = list(np.mean(probability_of(whole) - probability_of(np.array(asked)), axis=0))

    alone_in_text = w[token_ids].astype(float)
    bigrams = np.zeros(n + 1)  # left of token i, right of it
    bigrams[1:n] = u[token_ids[:-1], token_ids[1:]]
    skipping = np.zeros(n)
    skipping[1:-1] = u[token_ids[:-2], token_ids[2:]]
    left = probability_of(whole - alone_in_text - bigrams[:-1] - bigrams[1:] + skipping)
    loo = falls(probability_of(whole), left)
    tau = math.nan
    if n > 1:
        tau = float(kendall_tau(scores[None].astype(float), loo[None])[0])

    hard = np.zeros(n, bool)
    hard[order[: min(top_k_rationale, positive)]] = True
    both = int((hard & rationale).sum())
    made = {
        "aopc_comprehensiveness": drops[0],
        "aopc_comprehensiveness_mask": drops[1],
        "aopc_sufficiency": drops[2],
        "aopc_sufficiency_mask": drops[3],
        "tau_loo": tau,
        "auprc": area(scores[order], rationale[order]),
        "token_f1_top5": 2 * both / max(1, int(hard.sum() + rationale.sum())),
        "token_iou_top5": both / max(1, int((hard | rationale).sum())),
    }
    return {name: np.asarray(value, scores.dtype) for name, value in made.items()}


def area(scores: Float[np.ndarray, "n"], true: Bool[np.ndarray, "n"]) -> float:
    """The trapezoid area under precision over recall, scores falling; NaN without a true token."""
    if not true.any():
        return math.nan
    ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    hits = np.cumsum(true)[ends]
    precision, recall = np.append(1, hits / (ends + 1)), np.append(0, hits / hits[-1])
    return float(np.trapezoid(precision, recall))
