"""Progressive self-supervised attention in NumPy (Su et al. 2021; equations after the authors' code)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from . import EXHIBIT, tag_of

FAR = 40  # words: beyond this distance from the aspect the position weight is 0


@EXHIBIT.path
def mine(
    alphas: Float[np.ndarray, "rounds batch n"],
    wids: Int[np.ndarray, "batch n"],
    dist: Int[np.ndarray, "batch n"],
    *,
    max_entropy_bits: float = 4.0,
    skip_empty: bool = True,
) -> dict[str, np.ndarray | list[np.ndarray]]:
    """Extract the most attended word of each sentence, round by round.

    Parameters
    ----------
    alphas            attention of each round, times -1 where the prediction was wrong
    wids, dist        word ids (0: padding) and distances to the aspect (-1: padding)
    max_entropy_bits  eps of (4): flatter attention extracts nothing
    skip_empty        a sentence of which nothing is left extracts nothing

    Returns
    -------
    entropy_bits (rounds, batch); mask, amask, avalue, position_weight (batch, n);
    erase_mask_after, erased_wids_after: lists of (batch, n), after 0 ... rounds rounds
    """
    rounds, batch, _ = alphas.shape
    real = dist >= 0
    entropy = np.zeros((rounds, batch), alphas.dtype)
    mask = real.astype(alphas.dtype)
    amask, avalue = np.zeros_like(mask), np.zeros_like(mask)
    masks, ids = [mask.copy()], [wids.copy()]
    for k in range(rounds):
        left, words = masks[-1].copy(), ids[-1].copy()
        for b in range(batch):
            weight = np.abs(alphas[k, b])
            seen = weight[weight > 0]
            entropy[k, b] = 0 - np.sum(seen * np.log2(seen))  # (3)
            if entropy[k, b] < max_entropy_bits and (seen.size or not skip_empty):
                i = weight.argmax()  # (4); the first of equals
                left[b, i], words[b, i] = 0, 0
                amask[b, i] = 1
                if alphas[k, b, i] > 0:
                    avalue[b, i] = 1
        masks.append(left)
        ids.append(words)
    return {
        "entropy_bits": entropy,
        "mask": mask,
        "amask": amask,
        "avalue": avalue,
        "position_weight": np.where(real, np.maximum(1 - dist / FAR, 0), 0).astype(alphas.dtype),
        "erase_mask_after": masks,
        "erased_wids_after": ids,
    }


@EXHIBIT.path
def classify(
    text: Int[np.ndarray, "batch n"],
    text_length: Int[np.ndarray, "batch"],
    aspect: Int[np.ndarray, "batch aspects"],
    polarity: Int[np.ndarray, "batch"],
    attention_mask: Bool[np.ndarray, "batch n"],
    attention_value: Float[np.ndarray, "batch n"],
    embedding_A: Float[np.ndarray, "vocabulary dim"],
    embedding_B: Float[np.ndarray, "vocabulary dim"],
    embedding_C: Float[np.ndarray, "vocabulary dim"],
    M: Float[np.ndarray, "dim dim"],
    H: Float[np.ndarray, "dim dim"],
    W: Float[np.ndarray, "dim 3"],
    mask: Bool[np.ndarray, "batch n"] | None = None,
    *,
    hops: int = 1,
    lam: float = 1.0,
    value_norm: str = "given",
) -> dict[str, np.ndarray]:
    """The memory network's prediction and attention, and the two losses; equations (1), (2), (5).

    Returns probabilities (batch, 3), alpha (batch, n) of the last hop, class_loss (nats),
    attention_loss and loss (scalars). A sentence of which nothing is left attends to nothing.
    """
    n = text.shape[1]
    seen = np.arange(n) < text_length[:, None]  # (batch, n)
    if mask is not None:
        seen = seen & mask
    A, C = embedding_A[text], embedding_C[text]  # (batch, n, dim)
    u = embedding_B[aspect].mean(axis=1)  # (1): (batch, dim)
    for _ in range(hops):
        scores = np.einsum("bne,be->bn", A, u @ M)
        alpha = masked_softmax(scores, seen)
        u = np.einsum("bn,bne->be", alpha, C) + u @ H
    p = masked_softmax(u @ W, np.array(True))  # (2)
    logits = u @ W
    top = logits.max(axis=1)
    log_total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    class_loss = np.mean(log_total - logits[np.arange(len(p)), polarity])

    avalue = attention_value
    if value_norm != "given":
        active = avalue.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            avalue = avalue / (np.maximum(active, 1) if value_norm == "guarded" else active)
    attention_loss = np.mean(((attention_mask * alpha - avalue) ** 2).sum(axis=1))  # (5)
    return {
        "probabilities": p,
        "alpha": alpha,
        "class_loss": class_loss,
        "attention_loss": attention_loss,
        "loss": np.asarray(class_loss + lam * attention_loss, W.dtype),  # (6)
    }


@EXHIBIT.path
def gradient_weights(
    gradients: Float[np.ndarray, "passes batch n dim"],
    embedding: Float[np.ndarray, "batch n dim"],
    mask: Bool[np.ndarray, "batch n"],
    target_mask: Bool[np.ndarray, "batch n"],
) -> dict[str, np.ndarray]:
    """alpha (batch, n) from noisy gradients of the gold class's logit at the embeddings."""
    context = mask & ~target_mask
    s = np.einsum("rbne,bne->bn", gradients, embedding) / len(gradients)
    s = np.where(context, s, 0)
    s = np.where(context, s - s.min(axis=1, keepdims=True), 0)
    total = s.sum(axis=1, keepdims=True)
    return {"alpha": s / np.where(total > 0, total, 1)}


@EXHIBIT.path
def read_lines(lines: np.ndarray, *, strip_characters: bool = False) -> dict[str, np.ndarray]:
    """Labels, words and distances of sentences whose aspect words carry /p, /n or /0.

    Returns y (n,), target_words and words (n,) text, dist (n, longest) padded with -1 and
    beg_end (n, 2): the aspect is words beg ... end - 1.
    """
    y, targets, words, dists, spans = [], [], [], [], []
    for line in lines:
        tokens, at, found = str(line).split(), [], []
        for i, token in enumerate(tokens):
            if tag := tag_of(token, anywhere=strip_characters):
                tokens[i] = token.strip(tag) if strip_characters else token[: -len(tag)]
                at.append(i)
                found.append(tag)
        first, last = at[0], at[-1]
        y.append({"/n": 0, "/p": 1, "/0": 2}[found[0]])
        targets.append(" ".join(tokens[i] for i in at))
        words.append(" ".join(tokens))
        dists.append([last - i if i < first else i - first for i in range(len(tokens))])
        spans.append((first, last + 1))
    longest = max(map(len, dists))
    return {
        "y": np.array(y),
        "target_words": np.array(targets),
        "words": np.array(words),
        "dist": np.array([d + [-1] * (longest - len(d)) for d in dists]),
        "beg_end": np.array(spans),
    }


@EXHIBIT.path
def evaluate(pred: Int[np.ndarray, "n"], gold: Int[np.ndarray, "n"]) -> dict[str, np.ndarray]:
    """accuracy and macro_f1 (scalars) over the classes 0, 1, 2; a class nobody names has F1 0."""
    classes = np.arange(3)[:, None]
    predicted, actual = pred == classes, gold == classes  # (3, n)
    hits = (predicted & actual).sum(axis=1)
    named = predicted.sum(axis=1) + actual.sum(axis=1)
    return {
        "accuracy": np.mean(pred == gold),
        "macro_f1": np.mean(2 * hits / np.maximum(named, 1)),
    }


def masked_softmax(s, seen):  # type: ignore[no-untyped-def]
    """Softmax over the last axis where `seen`; rows that see nothing are 0."""
    s = np.where(seen, s, -np.inf)
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total > 0, total, 1)
