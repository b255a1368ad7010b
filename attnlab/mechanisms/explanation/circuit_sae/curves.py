"""Unit vectors; and from scores to a judgement: softmax, the ROC curve, the code's F1, the true one."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


def unit(w: np.ndarray, axis: int) -> np.ndarray:
    """(3): vectors along the axis rescaled to length 1; one of zeros stays."""
    length = np.sqrt((w * w).sum(axis=axis, keepdims=True))
    return w / np.where(length > 0, length, 1)


def softmax(scores: Float[np.ndarray, "*lead n"], axis: int = -1) -> Float[np.ndarray, "*lead n"]:
    """exp(s) / sum exp(s), the maximum subtracted so that large counts do not overflow."""
    e = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def members(circuit_heads: Int[np.ndarray, "m"], n: int) -> Bool[np.ndarray, "n"]:
    truth = np.zeros(n, bool)
    truth[circuit_heads] = True
    return truth


def roc(
    scores: Float[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
    """(fpr, tpr) at the distinct scores as thresholds, descending, from (0, 0).

    A point between two steps that add the same counts is dropped: it lies on their line.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of each group of equal scores
    tps, fps = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    if len(tps) > 2:
        bends = (np.diff(tps, 2) != 0) | (np.diff(fps, 2) != 0)
        kept = np.concatenate([[True], bends, [True]])
        tps, fps = tps[kept], fps[kept]
    return np.append(0, fps) / fps[-1], np.append(0, tps) / tps[-1]


def auc(scores: Float[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]) -> float:
    """Area under the ROC curve: the chance that a circuit head outranks another, ties half."""
    fpr, tpr = roc(scores, truth)
    return float(np.trapezoid(tpr, fpr))


def f1_curve_max(fpr: Float[np.ndarray, "points"], tpr: Float[np.ndarray, "points"]) -> float:
    """The authors' 'F1': the largest harmonic mean of sensitivity and specificity (0/0 is 0)."""
    total = tpr + 1 - fpr
    return float((2 * tpr * (1 - fpr) / np.where(total > 0, total, 1)).max())


def true_f1(
    predicted: Bool[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]
) -> Float[np.ndarray, "7"]:
    """F1, precision, recall, tp, fp, tn, fn; a ratio without denominator is 0."""
    tp, fp = (predicted & truth).sum(), (predicted & ~truth).sum()
    tn, fn = (~predicted & ~truth).sum(), (~predicted & truth).sum()
    return np.array(
        [2 * tp / max(2 * tp + fp + fn, 1), tp / max(tp + fp, 1), tp / (tp + fn), tp, fp, tn, fn]
    )


def judge_nodes(
    unique: tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]],
    n_layers: int,
    truth: Bool[np.ndarray, "n"] | None,
    median_pred: Bool[np.ndarray, "n_layers n_heads"] | None,
) -> dict[str, Any]:
    """(5), (6) from (codes on positives only, codes on negatives only, codes in all) of each head."""
    pos, neg, union = unique
    made: dict[str, Any] = {}
    for suffix, divisor in (("", 1.0), ("_norm", union)):
        u = pos / divisor
        made[f"unique_pos{suffix}"] = u.reshape(n_layers, -1)
        made[f"unique_neg{suffix}"] = (neg / divisor).reshape(n_layers, -1)
        made[f"node_softmax{suffix}"] = softmax(u)
        if truth is not None:
            fpr, tpr = roc(u, truth)
            made[f"node_fpr{suffix}"], made[f"node_tpr{suffix}"] = fpr, tpr
            made[f"node_auc{suffix}"] = np.trapezoid(tpr, fpr)
            made[f"node_f1curve_max{suffix}"] = f1_curve_max(fpr, tpr)
    made["node_softmax_across_layer"] = softmax(made["unique_pos"], axis=0).ravel()
    if median_pred is not None and truth is not None:
        made["f1_precision_recall_tp_fp_tn_fn"] = true_f1(median_pred.ravel(), truth)
    return made


def judge_edges(
    U: Int[np.ndarray, "n n"],
    total: Int[np.ndarray, "n n"],
    edge_k: list[int] | None,
    truth: Bool[np.ndarray, "n"] | None,
) -> dict[str, Any]:
    """(7), (8) from the pairs on positives only and the pairs on positives plus those on negatives."""
    n = len(U)
    falling = np.argsort((U.max() - U).ravel().astype(np.uint32), kind="stable")  # ties by index
    heads = np.stack([falling // n, falling % n], axis=1).ravel()  # pair after pair
    made: dict[str, Any] = {
        "edge_unique": U.astype(np.float64),
        "edge_unique_norm": U / np.maximum(total, 1),
        "edge_pairs_sorted_values": U.ravel()[falling].astype(np.float64),
        "edge_softmax_k": {},
        "edge_auc_k": None if truth is None else {},
    }
    for k in [n * n // 2] if edge_k is None else edge_k:
        s = np.bincount(heads[:k], minlength=n).astype(np.float64)
        made["edge_softmax_k"][k] = softmax(s)
        if truth is not None:
            made["edge_auc_k"][k] = auc(s, truth)
    return made
