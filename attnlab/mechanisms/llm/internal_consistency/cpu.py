"""Internal consistency on the CPU: answers grouped by hashing, heads on the tiled attention."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.exp import exp
from attnlab.kernels.cpu.flash import flash_attention
from attnlab.kernels.cpu.product import linear
from attnlab.kernels.cpu.runtime import block, contiguous, fetch_add, run_workers, worker
from attnlab.kernels.cpu.softmax import row_max

from . import EXHIBIT

PIECE = 64  # positions or rows that a worker takes at a time


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
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. With coefficient 0 and nothing else wanted, one head alone is computed."""
    batch, n, width = hidden.shape
    dim, h = cos.shape[1], keep_head % n_heads
    if coefficient == 0 and not want - {"isolated_paper"}:
        g = h * (len(Wk) // dim) // n_heads
        one, shared = slice(h * dim, (h + 1) * dim), slice(g * dim, (g + 1) * dim)
        q, k, v = _project(hidden, cos, sin, Wq[one], Wk[shared], Wv[shared])
        O = flash_attention(q, k, v, causal=True).out
        return {"isolated_paper": linear(O[:, 0], Wo[:, one])}

    q, k, v = _project(hidden, cos, sin, Wq, Wk, Wv)
    heads, lse = flash_attention(q, k, v, causal=True)
    O = heads.transpose(0, 2, 1, 3).reshape(batch, n, -1)
    m = np.where(np.arange(n_heads) == h, 1, coefficient).astype(hidden.dtype)
    made: dict[str, np.ndarray | None] = {
        "isolated_paper": linear(O, contiguous(Wo * np.repeat(m, dim)))  # scaling Wo's columns
    }
    if want & {"plain", "isolated_code"}:
        plain = linear(O, Wo)
        made |= {"plain": plain, "isolated_code": plain * np.repeat(m, width // n_heads)}
    if "attn" in want:
        keys = np.repeat(k, n_heads // k.shape[1], axis=1).swapaxes(2, 3)
        S = q @ keys * hidden.dtype.type(dim**-0.5) - lse[..., None]
        made["attn"] = np.exp(np.where(np.tri(n, dtype=bool), S, -np.inf))
    return made


def _project(hidden, cos, sin, Wq, Wk, Wv):  # type: ignore[no-untyped-def]
    """Rotated queries and keys, and values, (batch, heads, n, dim) each."""
    batch, n, _ = hidden.shape
    made = []
    for W, turned in ((Wq, True), (Wk, True), (Wv, False)):
        rows = linear(hidden, W)
        out = scratch.empty((batch, len(W) // cos.shape[1], n, cos.shape[1]), hidden.dtype)
        run_workers(
            split_heads, rows, cos, sin, turned, out, np.zeros(1, np.int64),
            workers=None if rows.size > 2**18 else 1,
        )  # fmt: skip
        made.append(out)
    return made


@EXHIBIT.path
def consistency(labels: Int[np.ndarray, "*questions n"]) -> dict[str, np.ndarray]:
    """See the reference."""
    rows = labels.reshape(-1, labels.shape[-1])
    numbers, majority = _agreement(rows)
    names = ("neg_variance", "neg_entropy_bits", "unique_ratio", "majority_share")
    made = {name: numbers[:, i].reshape(labels.shape[:-1]) for i, name in enumerate(names)}
    return made | {"majority": majority.reshape(labels.shape[:-1])}


def _agreement(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    numbers = scratch.empty((len(rows), 4), np.float64)
    majority = scratch.empty(len(rows), np.int64)
    run_workers(
        agree, rows, numbers, majority, np.zeros(1, np.int64),
        workers=None if rows.size > 2**17 else 1,
    )  # fmt: skip
    return numbers + 0.0, majority  # -0.0 + 0.0 is 0.0: fast maths makes no difference of them


@EXHIBIT.path
def vote(
    labels: Int[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"] | None = None,
    logprobs: Float[np.ndarray, "n T"] | None = None,
    lengths: Int[np.ndarray, "n"] | None = None,
    ptrue_logits: Float[np.ndarray, "n 2"] | None = None,
) -> dict[str, np.ndarray]:
    """See the reference."""
    n = len(labels)
    dtype = next((x.dtype for x in (weights, logprobs, ptrue_logits) if x is not None), "f8")
    group, counts, values = (scratch.empty(n, np.int64) for _ in range(3))
    found = group_labels(labels, group, counts, values)
    values = values[:found]  # in the order in which they were first met
    ascending = np.argsort(values)

    scores: dict[str, np.ndarray | None] = {"count": None}
    if weights is not None:
        scores["weights"] = weights
    if logprobs is not None and lengths is not None:
        signals = scratch.empty((3, n), np.float64)
        run_workers(
            score_answers, logprobs, lengths, signals, np.zeros(1, np.int64),
            workers=None if logprobs.size > 2**18 else 1,
        )  # fmt: skip
        scores |= dict(zip(("joint", "mean", "min"), signals))
    if ptrue_logits is not None:
        true, false = ptrue_logits.astype(np.float64).T
        scores["ptrue"] = np.exp(-np.logaddexp(0, false - true))  # softmax

    made: dict[str, np.ndarray] = {"answers": values[ascending]}
    for name, s in scores.items():
        totals = counts[:found] if s is None else np.bincount(group, s, found)
        made[f"{name}_totals"] = totals[ascending].astype(dtype)
        made[f"{name}_winner"] = values[totals.argmax()]
        if s is not None and name != "weights":
            made[name] = s.astype(dtype)
    return made


@EXHIBIT.path
def readout(
    logits: Float[np.ndarray, "L H V"], answer_ids: Int[np.ndarray, "K"]
) -> dict[str, np.ndarray]:
    """See the reference."""
    L, H, V = logits.shape
    probs = scratch.empty((L, H, len(answer_ids)), logits.dtype)
    answers = scratch.empty((L, H), np.int64)
    run_workers(
        read_answers, logits.reshape(L * H, V), answer_ids, probs.reshape(L * H, -1),
        answers.reshape(-1), np.zeros(1, np.int64), workers=None if logits.size > 2**18 else 1,
    )  # fmt: skip
    numbers, majority = _agreement(answers)
    numbers = numbers.astype(logits.dtype)
    return {
        "probs": probs,
        "answers": answers,
        "layer_neg_variance": numbers[:, 0],
        "layer_neg_entropy_bits": numbers[:, 1],
        "layer_unique_ratio": numbers[:, 2],
        "layer_majority": majority,
        "layer_majority_share": numbers[:, 3],
    }


@worker
def split_heads(rows, cos, sin, turned, out, counter):
    """out (batch, heads, n, dim) <- rows (batch, n, heads * dim), turned by rope if asked to."""
    batch, heads, n, dim = out.shape
    half = dim // 2
    pieces = (n + PIECE - 1) // PIECE
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * pieces:
            break
        b, first = item // pieces, item % pieces * PIECE
        for i in range(first, min(first + PIECE, n)):
            for h in range(heads):
                z, made = rows[b, i, h * dim : (h + 1) * dim], out[b, h, i]
                if turned:
                    for d in range(half):
                        made[d] = z[d] * cos[i, d] - z[half + d] * sin[i, d]
                    for d in range(half, dim):
                        made[d] = z[d] * cos[i, d] + z[d - half] * sin[i, d]
                else:
                    for d in range(dim):
                        made[d] = z[d]


@block
def group_into(Y, table, group, counts, values):
    """Number the distinct labels in the order of their first places; returns how many there are.

    group (n,): the number of each label; counts, values: of each number. table: a power of two of
    at least 2 n slots.
    """
    table[:] = -1
    mask = table.size - 1
    found = 0
    for i in range(Y.size):
        key = np.uint64(Y[i]) * np.uint64(0x9E3779B97F4A7C15)  # the golden ratio scatters runs
        slot = np.int64(key >> np.uint64(32)) & mask
        while table[slot] >= 0 and values[table[slot]] != Y[i]:
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot], values[found], counts[found] = found, Y[i], 0
            found += 1
        group[i] = table[slot]
        counts[table[slot]] += 1
    return found


@block
def slots(n):
    size = 4
    while size < 2 * n:
        size *= 2
    return size


@worker
def group_labels(Y, group, counts, values):
    """`group_into` with a table of its own."""
    return group_into(Y, scratch.tile(slots(Y.size), np.int64), group, counts, values)


@worker
def agree(rows, numbers, majority, counter):
    """(1)-(4) of each row: numbers (rows, 4) holds all but the majority."""
    n = rows.shape[1]
    table = scratch.tile(slots(n), np.int64)
    room = scratch.tile((3, n), np.int64)
    while True:
        i = fetch_add(counter, 1)
        if i >= rows.shape[0]:
            break
        Y = rows[i]
        found = group_into(Y, table, room[0], room[1], room[2])
        total = 0.0
        for j in range(n):
            total += Y[j]
        mean, squares = total / n, 0.0
        for j in range(n):
            squares += (Y[j] - mean) ** 2
        entropy, best = 0.0, 0
        for g in range(found):
            p = room[1, g] / n
            entropy -= p * np.log2(p)
            if room[1, g] > room[1, best]:  # the value met first among equals
                best = g
        numbers[i, 0] = 0.0 - squares / n
        numbers[i, 1] = 0.0 - entropy
        numbers[i, 2] = found / n
        numbers[i, 3] = room[1, best] / n
        majority[i] = room[2, best]


@worker
def score_answers(logprobs, lengths, signals, counter):
    """signals (3, n) <- joint, mean and least token probability of each answer."""
    while True:
        first = fetch_add(counter, PIECE)
        if first >= lengths.size:
            break
        for i in range(first, min(first + PIECE, lengths.size)):
            row = logprobs[i, : lengths[i]]
            total, mean, least = 0.0, 0.0, np.inf
            for t in range(row.size):
                lp = np.float64(row[t])
                total += lp
                mean += exp(lp)
                least = min(least, lp)
            signals[0, i] = exp(total)
            signals[1, i] = mean / row.size
            signals[2, i] = exp(least)


@worker
def read_answers(logits, answer_ids, probs, answers, counter):
    """(9): probs (rows, K) under a softmax over the vocabulary, answers (rows,) their argmax."""
    while True:
        first = fetch_add(counter, 8)
        if first >= logits.shape[0]:
            break
        for i in range(first, min(first + 8, logits.shape[0])):
            row = logits[i]
            largest, total = row_max(row), logits.dtype.type(0)
            for v in range(row.size):
                total += exp(row[v] - largest)
            best = 0
            for j in range(answer_ids.size):
                probs[i, j] = exp(row[answer_ids[j]] - largest) / total
                if probs[i, j] > probs[i, best]:
                    best = j
            answers[i] = best
