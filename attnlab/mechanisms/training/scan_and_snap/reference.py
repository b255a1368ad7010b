"""Scan and snap in NumPy (Tian et al. 2023): literal sequences, facts and population dynamics."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from . import EXHIBIT


@EXHIBIT.path
def loss(
    x: Int[np.ndarray, "batch length"],
    label: Int[np.ndarray, "batch"],
    K1: Float[np.ndarray, "M M"],
    K2: Float[np.ndarray, "M M"],
    *,
    normalize: bool = True,
    attn_include_base_token: bool = False,
    residual: bool = False,
) -> dict[str, np.ndarray]:
    """Mean cross-entropy (nats) of the next token; x[:, -1] is the query, the rest are keys.

    K1 (M, M) decodes, logit_k = sum_l K1[k,l] f_l; K2[m,l] scores key l for last token m.
    Equations (1)-(3). Raises InputError for token ids outside 0..M-1 and sequences without a key.
    """
    total = 0.0
    for sequence, n in zip(x, label):
        keys = sequence if attn_include_base_token else sequence[:-1]
        _, _, _, logits = forward(keys, sequence[-1], K1, K2, normalize, residual)
        total -= log_softmax(logits)[n]  # (3)
    return {"loss": np.asarray(total / len(x), K1.dtype)}


def forward(keys, m, K1, K2, normalize=True, residual=False):  # type: ignore[no-untyped-def]
    """(1)-(3) of one sequence: b of each key, f (M,), the norm it was divided by, logits (M,)."""
    b = softmax(K2[m, keys])  # (1)
    u = np.zeros(len(K1), K1.dtype)
    np.add.at(u, keys, b)  # (2): repeated keys add up
    if residual:
        u[m] += 1
    norm = np.sqrt(u @ u) if normalize else u.dtype.type(1)
    f = u / norm
    return b, f, norm, K1 @ f


def backward(keys, n, K1, b, f, norm, alpha):  # type: ignore[no-untyped-def]
    """(4) of one sequence with next token n: dJ/dK1 (M, M), and dJ/ds of each key's score."""
    g = alpha.copy()
    g[n] -= 1
    df = K1.T @ g
    du = (df - f * (f @ df)) / norm
    return np.outer(g, f), b * (du[keys] - b @ du[keys])


@EXHIBIT.path
def train(
    x: Int[np.ndarray, "steps batch length"],
    label: Int[np.ndarray, "steps batch"],
    fact_probs: Float[np.ndarray, "facts M"] | None = None,
    fact_last: Int[np.ndarray, "facts"] | None = None,
    *,
    M: int,
    lr_y: float = 1.0,
    lr_z: float = 1.0,
    momentum: float = 0.9,
    snapshot_steps: list[int] = [],  # noqa: B006 -- never changed
) -> dict[str, np.ndarray | None]:
    """SGD with momentum from zero weights, one given batch a step; equations (1)-(5).

    losses are before each update, snapshots after; c is (6) with z = K2 at the end. Everything is
    in the dtype of fact_probs, float64 without.
    """
    dtype = np.float64 if fact_probs is None else fact_probs.dtype
    K1, K2, v1, v2 = (np.zeros((M, M), dtype) for _ in range(4))
    losses, kept = [], {}
    for step, (sequences, labels) in enumerate(zip(x, label)):
        d1, d2 = np.zeros_like(K1), np.zeros_like(K2)
        J = 0.0
        for sequence, n in zip(sequences, labels):
            keys, m = sequence[:-1], sequence[-1]
            b, f, norm, logits = forward(keys, m, K1, K2)
            J -= log_softmax(logits)[n] / len(labels)
            dK1, ds = backward(keys, n, K1, b, f, norm, softmax(logits))
            d1 += dK1 / len(labels)
            np.add.at(d2[m], keys, ds / len(labels))
        losses.append(J)
        v1, v2 = momentum * v1 + d1, momentum * v2 + d2  # (5)
        K1, K2 = K1 - lr_y * v1, K2 - lr_z * v2
        kept[step] = K1, K2
    shape = (len(snapshot_steps), M, M)
    return {
        "losses": np.array(losses, dtype),
        "K1_snapshots": np.array([kept[s][0] for s in snapshot_steps], dtype).reshape(shape),
        "K2_snapshots": np.array([kept[s][1] for s in snapshot_steps], dtype).reshape(shape),
        "c": None if fact_probs is None else tilted(fact_probs, K2[fact_last]),
    }


@EXHIBIT.path
def facts(
    *,
    num_last: int = 2,
    num_next_per_last: int = 2,
    num_common: int = 10,
    num_common_per_last: int = 5,
    num_unique_per_next: int = 10,
    unique_min: float = 0.1,
    unique_max: float = 1.0,
    common_weight: float = 1.0,
) -> dict[str, np.ndarray]:
    """Key distributions P(l|m,n) of all facts, and each fact's last and next token (Algorithm 1).

    Token ids in order: common, common per last token, unique per fact, last tokens, next tokens.
    """
    count = num_last * num_next_per_last
    fact = np.arange(count)
    last = fact // num_next_per_last
    # where each kind of token begins, and how many tokens there are
    per_last = num_common
    unique = per_last + num_last * num_common_per_last
    m = unique + count * num_unique_per_next
    n = m + num_last
    M = n + count
    P = np.zeros((count, M))
    for i in fact:
        own = per_last + last[i] * num_common_per_last
        P[i, :num_common] = common_weight
        P[i, own : own + num_common_per_last] = common_weight
        mine = unique + i * num_unique_per_next
        P[i, mine : mine + num_unique_per_next] = np.linspace(
            unique_min, unique_max, num_unique_per_next
        )
    return {
        "fact_probs": P / P.sum(axis=1, keepdims=True),
        "fact_last": m + last,
        "fact_next": n + fact,
    }


@EXHIBIT.path
def population_train(
    fact_probs: Float[np.ndarray, "facts M"],
    fact_last: Int[np.ndarray, "facts"],
    fact_next: Int[np.ndarray, "facts"],
    *,
    eta_y: float = 1.0,
    eta_z: float = 1.0,
    steps: int,
) -> dict[str, np.ndarray]:
    """Gradient ascent on the expected log-likelihood from zero, sequences infinitely long.

    Equations (6)-(8); the expectation weighs all facts equally. c_history (steps, facts, M) and
    losses (steps,) are taken before each step.
    """
    F, M = fact_probs.shape
    Y, Z = np.zeros((2, M, M), fact_probs.dtype)
    history, losses = [], []
    for _ in range(steps):
        c_all = tilted(fact_probs, Z[fact_last])  # (6)
        dY, dZ = np.zeros_like(Y), np.zeros_like(Z)
        J = 0.0
        for c, m, n in zip(c_all, fact_last, fact_next):
            norm = np.sqrt(c @ c)
            f = c / norm
            logits = Y.T @ f
            J -= log_softmax(logits)[n] / F
            r = -softmax(logits)
            r[n] += 1  # e_n - alpha
            dY += np.outer(f, r) / F  # (7)
            w = Y @ r
            w = (w - f * (f @ w)) / norm
            dZ[m] += c * (w - c @ w) / F  # (8)
        Y, Z = Y + eta_y * dY, Z + eta_z * dZ
        history.append(c_all)
        losses.append(J)
    return {
        "Y": Y,
        "Z": Z,
        "c_history": np.array(history),
        "losses": np.array(losses, fact_probs.dtype),
    }


def tilted(P, z):  # type: ignore[no-untyped-def]
    """(6): P exp(z) / sum, by rows."""
    c = P * np.exp(z - z.max(axis=-1, keepdims=True))
    return c / c.sum(axis=-1, keepdims=True)


def softmax(z):  # type: ignore[no-untyped-def]
    e = np.exp(z - z.max())
    return e / e.sum()


def log_softmax(z):  # type: ignore[no-untyped-def]
    """log alpha, finite also where alpha underflows to 0."""
    shifted = z - z.max()
    return shifted - np.log(np.exp(shifted).sum())
