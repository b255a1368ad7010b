"""Progressive self-supervised attention on the CPU: one pass over each sentence.

Gathering rows, scores, softmax and weighted sum are one loop a sentence, so that no (batch, n, dim)
copy of the embeddings exists; a tile of sentences shares the products with M and H.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, scalars
from attnlab.kernels.cpu.log import entropy_bits
from attnlab.kernels.cpu.runtime import block, fetch_add, run_workers, single_threaded_blas, worker
from attnlab.kernels.cpu.softmax import row_max, softmax_row
from attnlab.kernels.cpu.vector import dot

from . import EXHIBIT

FAR = 40  # words
SENTENCES = 16  # a tile; also how many a thread takes at a time
ROWS = 256  # words of which a thread takes the gradients at a time
NORMS = {"given": 0, "guarded": 1, "released": 2}


@EXHIBIT.path
def mine(
    alphas: Float[np.ndarray, "rounds batch n"],
    wids: Int[np.ndarray, "batch n"],
    dist: Int[np.ndarray, "batch n"],
    *,
    max_entropy_bits: float = 4.0,
    skip_empty: bool = True,
) -> dict[str, np.ndarray | list[np.ndarray]]:
    """See the reference."""
    rounds, batch, n = alphas.shape
    entropy = scratch.empty((rounds, batch), alphas.dtype)
    flags = scratch.empty((3, batch, n), alphas.dtype)  # amask, avalue, position weight
    masks = scratch.empty((rounds + 1, batch, n), alphas.dtype)
    ids = scratch.empty((rounds + 1, batch, n), np.int64)
    run_workers(
        mine_sentences, alphas, wids, dist, alphas.dtype.type(max_entropy_bits), skip_empty,
        entropy, flags, masks, ids, np.zeros(1, np.int64),
        workers=None if alphas.size > 2**15 else 1,
    )  # fmt: skip
    return {
        "entropy_bits": entropy,
        "mask": masks[0].copy(),
        "amask": flags[0],
        "avalue": flags[1],
        "position_weight": flags[2],
        "erase_mask_after": list(masks),
        "erased_wids_after": list(ids),
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
    """See the reference."""
    batch, n = text.shape
    p = scratch.empty((batch, 3), W.dtype)
    alpha = scratch.empty((batch, n), W.dtype)
    each = scratch.empty((2, batch), W.dtype)  # class loss, attention loss
    with single_threaded_blas():
        run_workers(
            read_sentences, text, text_length, aspect, polarity, attention_mask, attention_value,
            np.zeros((0, 0), bool) if mask is None else mask,
            embedding_A, embedding_B, embedding_C, M, H, W, hops, NORMS[value_norm],
            p, alpha, each, np.zeros(1, np.int64),
            workers=None if hops * (text.size + batch * len(M)) * len(M) > 2**17 else 1,
        )  # fmt: skip
    class_loss, attention_loss = each.mean(axis=1)
    return {
        "probabilities": p,
        "alpha": alpha,
        "class_loss": class_loss,
        "attention_loss": attention_loss,
        "loss": np.asarray(class_loss + lam * attention_loss, W.dtype),
    }


@EXHIBIT.path
def gradient_weights(
    gradients: Float[np.ndarray, "passes batch n dim"],
    embedding: Float[np.ndarray, "batch n dim"],
    mask: Bool[np.ndarray, "batch n"],
    target_mask: Bool[np.ndarray, "batch n"],
) -> dict[str, np.ndarray]:
    """See the reference: every gradient is read once, the rest is (batch, n) numbers."""
    passes, batch, n, dim = gradients.shape
    s = scratch.empty(batch * n, embedding.dtype)
    run_workers(
        gradient_dot_embedding,
        gradients.reshape(passes, batch * n, dim),
        embedding.reshape(batch * n, dim),
        s,
        np.zeros(1, np.int64),
        workers=None if gradients.size > 2**17 else 1,
    )
    context = mask & ~target_mask
    s = np.where(context, s.reshape(batch, n), 0)
    s = np.where(context, s - s.min(axis=1, keepdims=True), 0)
    total = s.sum(axis=1, keepdims=True)
    return {"alpha": s / np.where(total > 0, total, 1)}


@EXHIBIT.path
def evaluate(pred: Int[np.ndarray, "n"], gold: Int[np.ndarray, "n"]) -> dict[str, np.ndarray]:
    """See the reference: one pass counts hits, predictions and labels of each class."""
    counts = np.zeros((3, 3))
    count_classes(pred, gold, counts)
    hits, named = counts[0], counts[1] + counts[2]
    return {
        "accuracy": hits.sum() / len(pred),
        "macro_f1": np.mean(2 * hits / np.maximum(named, 1)),
    }


@worker
def mine_sentences(alphas, wids, dist, eps, skip_empty, entropy, flags, masks, ids, counter):
    """(3), (4) for sentences taken from the counter. flags: amask, avalue, position weight."""
    rounds, batch, n = alphas.shape
    weight = scratch.tile(n, alphas.dtype)
    zero, one = alphas.dtype.type(0), alphas.dtype.type(1)
    while True:
        first = fetch_add(counter, SENTENCES)
        if first >= batch:
            break
        for b in range(first, min(first + SENTENCES, batch)):
            amask, avalue, position = flags[0, b], flags[1, b], flags[2, b]
            real, words = masks[0, b], ids[0, b]
            for i in range(n):
                d = dist[b, i]
                amask[i] = zero
                avalue[i] = zero
                real[i] = one if d >= 0 else zero
                position[i] = one - alphas.dtype.type(d) / FAR if 0 <= d <= FAR else zero
                words[i] = wids[b, i]
            for k in range(rounds):
                signed = alphas[k, b]
                for i in range(n):
                    weight[i] = abs(signed[i])
                bits = entropy_bits(weight)
                entropy[k, b] = bits
                for i in range(n):  # a slice assignment would double the compile time
                    masks[k + 1, b, i] = masks[k, b, i]
                    ids[k + 1, b, i] = ids[k, b, i]
                largest = row_max(weight)
                if bits < eps and (largest > zero or not skip_empty):
                    at = 0
                    while weight[at] != largest:
                        at += 1
                    masks[k + 1, b, at] = zero
                    ids[k + 1, b, at] = 0
                    amask[at] = one
                    if signed[at] > zero:
                        avalue[at] = one


@block
def add_scaled(out, factor, row):
    for e in range(out.size):
        out[e] += factor * row[e]


@worker
def read_sentences(
    text, text_length, aspect, polarity, amask, avalue, mask, A, B, C, M, H, W, hops, norm,
    p, alpha, each, counter,
):  # fmt: skip
    """(1), (2), (5) for tiles of sentences taken from the counter. each (2, batch): both losses."""
    batch, n = text.shape
    dim = M.shape[0]
    tiles = scratch.tile((3, SENTENCES, dim), M.dtype)
    put = scalars(1, 0, M.dtype)
    zero, one = M.dtype.type(0), M.dtype.type(1)
    while True:
        first = fetch_add(counter, SENTENCES)
        if first >= batch:
            break
        count = min(SENTENCES, batch - first)
        u, q, following = tiles[0, :count], tiles[1, :count], tiles[2, :count]
        share = one / M.dtype.type(aspect.shape[1])
        for i in range(count):
            for e in range(dim):
                u[i, e] = zero
            for a in range(aspect.shape[1]):
                add_scaled(u[i], share, B[aspect[first + i, a]])
        for _ in range(hops):
            gemm_nn(put, u, M, q)
            gemm_nn(put, u, H, following)
            for i in range(count):
                b = first + i
                words = text[b]
                row = alpha[b, : text_length[b]]
                for j in range(row.size):
                    row[j] = dot(A[words[j]], q[i])
                if mask.size > 0:
                    for j in range(row.size):
                        if not mask[b, j]:
                            row[j] = -np.inf
                softmax_row(row)
                for j in range(row.size):
                    add_scaled(following[i], row[j], C[words[j]])
            u, following = following, u
        gemm_nn(put, u, W, p[first : first + count])
        for i in range(count):
            b = first + i
            wanted = p[b, polarity[b]]
            each[0, b] = softmax_row(p[b]) - wanted
            for j in range(text_length[b], n):
                alpha[b, j] = zero
            active = one
            if norm > 0:
                active = zero
                for j in range(n):
                    active += avalue[b, j]
                if norm == 1:
                    active = max(active, one)
            total = zero
            for j in range(n):
                gap = (alpha[b, j] if amask[b, j] else zero) - avalue[b, j] / active
                total += gap * gap
            each[1, b] = total


@worker
def gradient_dot_embedding(gradients, embedding, s, counter):
    """s_i <- mean over passes of gradient . embedding, for words taken from the counter."""
    passes, words, _ = gradients.shape
    share = s.dtype.type(1) / s.dtype.type(passes)
    while True:
        first = fetch_add(counter, ROWS)
        if first >= words:
            break
        last = min(first + ROWS, words)
        for i in range(first, last):
            s[i] = 0
        for r in range(passes):
            for i in range(first, last):
                s[i] += dot(gradients[r, i], embedding[i])
        for i in range(first, last):
            s[i] *= share


@worker
def count_classes(pred, gold, counts):
    """counts (3, 3): hits, predictions and labels of the classes 0, 1, 2."""
    for c in range(3):
        hits, predicted, actual = 0, 0, 0
        for i in range(pred.size):
            said, true = pred[i] == c, gold[i] == c
            hits += said & true
            predicted += said
            actual += true
        counts[0, c] = hits
        counts[1, c] = predicted
        counts[2, c] = actual
