"""Circuits by sparse autoencoders in NumPy (O'Neill and Bui 2024), in the paper's order."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from . import EXHIBIT
from .curves import auc, judge_edges, judge_nodes, members, softmax, unit

AXIS = {"rows": 1, "columns": 0}


@EXHIBIT.path
def find_circuit(
    streams: Float[np.ndarray, "N n d"],
    permutation: Int[np.ndarray, "N"],
    enc_weight: Float[np.ndarray, "F d"],
    enc_bias: Float[np.ndarray, "F"],
    dec_weight: Float[np.ndarray, "d F"],
    tied_bias: Float[np.ndarray, "d"],
    circuit_heads: Int[np.ndarray, "m"] | None = None,
    *,
    n_layers: int,
    n_heads: int,
    n_train: int = 10,
    n_epochs: int = 500,
    lr: float = 1e-3,
    lam: float = 0.02,
    dec_unit: str = "rows",
) -> dict[str, Any]:
    """Rank heads by the codes that they use on positive prompts only.

    streams (N, n, d): what head layer * n_heads + head adds to the residual stream, averaged over
    positions; the first N / 2 prompts are positive. Weights are the initial ones. Losses are in the
    squared units of streams. Codes are whole numbers below F, AUC and softmax without unit.

    Raises InputError: N odd, a grid that is not n, heads outside it, all or no heads in the
    circuit, a permutation that is none, NaN.

    Source: arXiv 2405.12522; charlieoneill11/sae-circuits, src/sae.py, src/train.py, src/node.py.
    """
    d = streams.shape[2]
    axis = AXIS[dec_unit]
    W_e, W_d = unit(enc_weight, 1), unit(dec_weight, axis)
    weights = [W_e, enc_bias, W_d, tied_bias]
    a = encode(streams, *weights)  # (N, n, F)
    made: dict[str, Any] = {
        "init_activations_first2": a[:2],
        "init_reconstruction_first2": a[:2] @ W_d.T + tied_bias,
        "init_loss": loss(streams, a, W_d, tied_bias, lam),
    }

    rows = streams[permutation[:n_train]].reshape(-1, d)  # (n_train n, d)
    steps = Adam(weights, lr)
    train_loss = np.zeros(n_epochs, streams.dtype)
    for epoch in range(n_epochs):
        weights[0], weights[2] = unit(weights[0], 1), unit(weights[2], axis)  # (3)
        train_loss[epoch], g = gradients(rows, weights, lam)
        g[0], g[2] = project(g[0], weights[0], 1), project(g[2], weights[2], axis)  # (3)
        weights = steps.update(weights, g)
    weights[0], weights[2] = unit(weights[0], 1), unit(weights[2], axis)

    a = encode(streams, *weights)
    codes = a.argmax(axis=2)  # (4) (N, n)
    u = node_counts(codes)[0].astype(streams.dtype)
    made |= {
        "train_loss": train_loss,
        "trained_enc_weight": weights[0],
        "trained_enc_bias": weights[1].copy(),
        "trained_dec_weight": weights[2],
        "trained_tied_bias": weights[3].copy(),
        "codes": codes,
        "code_margin_min": least_margin(a),
        "node_softmax": softmax(u),  # (6)
    }
    if circuit_heads is not None:
        area = auc(u, members(circuit_heads, len(u)))
        made["node_auc"] = np.asarray(area, streams.dtype)
    return made


@EXHIBIT.path
def score_codes(
    codes: Int[np.ndarray, "N n"],
    circuit_heads: Int[np.ndarray, "m"] | None = None,
    median_pred: Bool[np.ndarray, "n_layers n_heads"] | None = None,
    *,
    n_layers: int,
    n_heads: int,
    edge_k: list[int] | None = None,
    n_features: int | None = None,
) -> dict[str, Any]:
    """Scores of heads and of pairs of heads from codes; the first N / 2 prompts are positive.

    Counts of codes and of pairs, and the same divided (`_norm`); float64. With circuit_heads ROC
    curves and areas, with median_pred its true F1. edge_k: how many entries (8) keeps.

    Raises InputError: N odd, a grid that is not n, negative codes, codes of n_features and more,
    heads outside the grid, all or no heads in the circuit.

    Source: arXiv 2405.12522; charlieoneill11/sae-circuits, src/node.py, src/edge.py.
    """
    N, n = codes.shape
    truth = None if circuit_heads is None else members(circuit_heads, n)
    codes = np.unique(codes, return_inverse=True)[1].reshape(N, n)  # 0..F-1: pairs fit int64
    F = int(codes.max()) + 1
    U, total = np.zeros((2, n, n), np.int64)
    for g in range(n):  # (7)
        for h in range(g + 1, n):
            pairs = codes[:, g] * F + codes[:, h]
            pos, neg = set(pairs[: N // 2].tolist()), set(pairs[N // 2 :].tolist())
            U[g, h] = U[h, g] = len(pos - neg)
            total[g, h] = total[h, g] = len(pos) + len(neg)
    nodes = judge_nodes(node_counts(codes), n_layers, truth, median_pred)
    return nodes | judge_edges(U, total, edge_k, truth)


def node_counts(codes: Int[np.ndarray, "N n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(5) for each head: codes on positives only, on negatives only, in all."""
    half = len(codes) // 2
    sets = [(set(c[:half].tolist()), set(c[half:].tolist())) for c in codes.T]
    rows = [(len(pos - neg), len(neg - pos), len(pos | neg)) for pos, neg in sets]
    return tuple(np.array(rows).T)  # type: ignore[return-value]


def project(g: np.ndarray, w: np.ndarray, axis: int) -> np.ndarray:
    """(3): the gradient without its part along w, which has length 1."""
    return g - (g * w).sum(axis=axis, keepdims=True) * w


def encode(
    x: np.ndarray, W_e: np.ndarray, b_e: np.ndarray, W_d: np.ndarray, t: np.ndarray
) -> np.ndarray:
    return np.maximum((x - t) @ W_e.T + b_e, 0)  # (1)


def loss(x: np.ndarray, a: np.ndarray, W_d: np.ndarray, t: np.ndarray, lam: float) -> Any:
    xhat = a @ W_d.T + t  # (1)
    return ((xhat - x) ** 2).mean() + lam * a.sum(axis=-1).mean()  # (2)


def gradients(x: np.ndarray, weights: list[np.ndarray], lam: float) -> tuple[Any, list[np.ndarray]]:
    """(2) on rows x (R, d), and its gradients in W_e, b_e, W_d, t."""
    W_e, _, W_d, t = weights
    a = encode(x, *weights)  # (R, F)
    d_xhat = 2 * (a @ W_d.T + t - x) / x.size  # (R, d)
    d_a = (d_xhat @ W_d + lam / len(x)) * (a > 0)  # (R, F)
    d_t = (d_xhat - d_a @ W_e).sum(axis=0)
    return loss(x, a, W_d, t, lam), [d_a.T @ (x - t), d_a.sum(axis=0), d_xhat.T @ a, d_t]


def least_margin(a: np.ndarray) -> np.ndarray:
    """How far the closest row is from a tie; infinite with a single feature."""
    if a.shape[-1] == 1:
        return np.asarray(np.inf, a.dtype)
    second, first = np.moveaxis(np.partition(a, -2, axis=-1)[..., -2:], -1, 0)
    return (first - second).min()


class Adam:
    """Betas .9 and .999, eps 1e-8 (Kingma and Ba 2015)."""

    def __init__(self, weights: list[np.ndarray], lr: float) -> None:
        self.lr, self.t = lr, 0
        self.m, self.v = ([np.zeros_like(w) for w in weights] for _ in "mv")

    def update(self, weights: list[np.ndarray], g: list[np.ndarray]) -> list[np.ndarray]:
        self.t += 1
        self.m = [0.9 * m + 0.1 * x for m, x in zip(self.m, g)]
        self.v = [0.999 * v + 0.001 * x * x for v, x in zip(self.v, g)]
        first, second = 1 - 0.9**self.t, 1 - 0.999**self.t
        return [
            w - self.lr / first * m / (np.sqrt(v / second) + 1e-8)
            for w, m, v in zip(weights, self.m, self.v)
        ]
