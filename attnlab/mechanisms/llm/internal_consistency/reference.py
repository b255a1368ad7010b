"""Internal consistency in NumPy (Liang et al. 2024): agreement, votes, isolated heads."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from . import EXHIBIT


@EXHIBIT.path
def isolate_head(
    hidden: Float[np.ndarray, "batch n width"],
    cos: Float[np.ndarray, "n dim"],
    sin: Float[np.ndarray, "n dim"],
    Wq: Float[np.ndarray, "heads*dim width"],
    Wk: Float[np.ndarray, "kv_heads*dim width"],
    Wv: Float[np.ndarray, "kv_heads*dim width"],
    Wo: Float[np.ndarray, "width heads*dim"],
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    keep_head: int,
    coefficient: float = 0.0,
) -> dict[str, np.ndarray]:
    """Causal rotary attention in which every head but keep_head is scaled by the coefficient.

    isolated_paper scales head outputs before Wo (7), isolated_code slices of width D/H after it
    (8); plain scales nothing; attn (batch, heads, n, n). Raises InputError for widths that heads
    do not divide, keep_head outside -H..H-1, coefficient outside [0, 1].
    """
    batch, n, width = hidden.shape
    dim, h = cos.shape[1], keep_head % n_heads

    def split(W: np.ndarray) -> np.ndarray:  # (batch, H or Hkv, n, dim)
        return (hidden @ W.T).reshape(batch, n, -1, dim).transpose(0, 2, 1, 3)

    q, k, v = rope(split(Wq), cos, sin), rope(split(Wk), cos, sin), split(Wv)
    k, v = (np.repeat(x, n_heads // k.shape[1], axis=1) for x in (k, v))  # g(j) = j // (H / Hkv)
    S = np.einsum("bhid,bhjd->bhij", q, k) * dim**-0.5
    S = np.where(np.tri(n, dtype=bool), S, -np.inf)
    A = np.exp(S - S.max(axis=-1, keepdims=True))
    A /= A.sum(axis=-1, keepdims=True)
    O = np.einsum("bhij,bhjd->bihd", A, v)  # (6): (batch, n, H, dim)

    m = np.where(np.arange(n_heads) == h, 1, coefficient).astype(hidden.dtype)[:, None]
    plain = O.reshape(batch, n, -1) @ Wo.T
    sliced = plain.reshape(batch, n, n_heads, width // n_heads)
    return {
        "plain": plain,
        "attn": A,
        "isolated_code": (m * sliced).reshape(batch, n, width),  # (8)
        "isolated_paper": (m * O).reshape(batch, n, -1) @ Wo.T,  # (7)
    }


def rope(
    z: Float[np.ndarray, "*lead n dim"],
    cos: Float[np.ndarray, "n dim"],
    sin: Float[np.ndarray, "n dim"],
) -> Float[np.ndarray, "*lead n dim"]:
    """Rotary positions of (6): number i of the first half turns with number i of the second."""
    half = z.shape[-1] // 2
    turned = np.concatenate([-z[..., half:], z[..., :half]], axis=-1)
    return z * cos + turned * sin


@EXHIBIT.path
def consistency(labels: Int[np.ndarray, "*questions n"]) -> dict[str, np.ndarray]:
    """(1)-(4) of the answers to one question (n,), or of each row of (questions, n).

    Entropy in bits; ties of the majority go to the value met first.
    """
    rows = [agreement(row) for row in np.atleast_2d(labels)]
    shape = labels.shape[:-1]
    names = ("neg_variance", "neg_entropy_bits", "unique_ratio", "majority", "majority_share")
    return {name: np.array([r[i] for r in rows]).reshape(shape) for i, name in enumerate(names)}


def agreement(Y: np.ndarray) -> tuple[float, float, float, int, float]:
    values, counts = np.unique(Y, return_counts=True)
    p = counts / len(Y)
    variance = np.mean((Y - Y.mean()) ** 2)  # (1): divisor n
    entropy = -np.sum(p * np.log2(p))  # (2): over distinct values
    majority = first_met(Y, values, counts)
    return 0.0 - variance, 0.0 - entropy, len(values) / len(Y), majority, p.max()


def first_met(Y: np.ndarray, values: np.ndarray, totals: np.ndarray) -> int:
    """argmax of the totals; among equals the value that stands first in Y."""
    best = values[totals == totals.max()]
    return next(int(y) for y in Y if y in best)


@EXHIBIT.path
def vote(
    labels: Int[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"] | None = None,
    logprobs: Float[np.ndarray, "n T"] | None = None,
    lengths: Int[np.ndarray, "n"] | None = None,
    ptrue_logits: Float[np.ndarray, "n 2"] | None = None,
) -> dict[str, np.ndarray]:
    """Weighted votes (5), one for each signal that is given; totals ascend with the label.

    joint, mean and min are probabilities of whole answers, average and least token probabilities;
    padding (t >= length) never counts. Raises InputError for negative or all-zero weights, lengths
    outside 1..T and positive log-probabilities.
    """
    dtype = next((x.dtype for x in (weights, logprobs, ptrue_logits) if x is not None), "f8")
    scores = {"count": np.ones(len(labels))}
    if weights is not None:
        scores["weights"] = weights
    if logprobs is not None and lengths is not None:
        answers = [row[:L].astype("f8") for row, L in zip(logprobs, lengths)]
        scores["joint"] = np.array([np.exp(lp.sum()) for lp in answers])
        scores["mean"] = np.array([np.exp(lp).mean() for lp in answers])
        scores["min"] = np.array([np.exp(lp).min() for lp in answers])
    if ptrue_logits is not None:
        true, false = ptrue_logits.astype("f8").T
        scores["ptrue"] = np.exp(-np.logaddexp(0, false - true))  # softmax

    values, where = np.unique(labels, return_inverse=True)
    made: dict[str, np.ndarray] = {"answers": values}
    for name, s in scores.items():
        totals = np.zeros(len(values))
        for i, v in enumerate(where):
            totals[v] += s[i]  # (5)
        made[f"{name}_totals"] = totals.astype(dtype)
        made[f"{name}_winner"] = np.asarray(first_met(labels, values, totals))
    return made | {k: scores[k].astype(dtype) for k in scores if k not in ("count", "weights")}


@EXHIBIT.path
def readout(
    logits: Float[np.ndarray, "L H V"], answer_ids: Int[np.ndarray, "K"]
) -> dict[str, np.ndarray]:
    """Answers of every layer and head (9), and how far a layer's heads agree (10).

    The softmax runs over the whole vocabulary; answers are positions in answer_ids, the first
    among equals. Raises InputError for ids outside the vocabulary.
    """
    P = np.exp(logits - logits.max(axis=-1, keepdims=True))
    P /= P.sum(axis=-1, keepdims=True)
    probs = P[..., answer_ids]
    answers = probs.argmax(axis=-1)
    layers = consistency(labels=answers)._asdict()
    return {"probs": probs, "answers": answers} | {
        f"layer_{name}": value if value.dtype.kind == "i" else value.astype(logits.dtype)
        for name, value in layers.items()
    }
