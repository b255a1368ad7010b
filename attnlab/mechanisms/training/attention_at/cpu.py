"""Adversarial training of attention on the CPU: hidden states live for a tile of words only.

The logit is linear in the attention: logit = sum_t a_t (wo . h_t) + bo. So after one pass over the
words two numbers each are left, the score and wo . h_t, and both forward passes, the gradient and
the perturbation are a few loops over a sentence.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt, scalars
from attnlab.kernels.cpu.exp import exp, tanh
from attnlab.kernels.cpu.runtime import block, fetch_add, run_workers, single_threaded_blas, worker
from attnlab.kernels.cpu.scratch import packed
from attnlab.kernels.cpu.softmax import exp_minus, row_max
from attnlab.kernels.cpu.vector import dot

from . import EXHIBIT, VARIANTS

FLOOR = 1e-12  # of norms that are divided by
CONSTANT = 1e-12  # a spread below this share of the sum of squares counts as none
ROWS = 64  # words of a tile
_, IAT, IAT_RELEASED, RP = range(4)
assert VARIANTS == ("at", "iat", "iat_released", "rp")


@EXHIBIT.path
def adversarial_step(
    x: Float[np.ndarray, "batch n embed"],
    mask: Bool[np.ndarray, "batch n"],
    label: Int[np.ndarray, "batch"],
    pos_weight: Float[np.ndarray, "batch 1"],
    encoder_l_weight: Float[np.ndarray, "width embed"],
    encoder_l_bias: Float[np.ndarray, "width"],
    attention_layer_attn_0_weight: Float[np.ndarray, "units width"],
    attention_layer_attn_0_bias: Float[np.ndarray, "units"],
    attention_layer_attn_2_weight: Float[np.ndarray, "1 units"],
    output_weight: Float[np.ndarray, "1 width"],
    output_bias: Float[np.ndarray, "1"],
    direction: Float[np.ndarray, "batch n"] | None = None,
    *,
    variant: str = "at",
    xi: float = 1.0,
    lam_adv: float = 1.0,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference."""
    batch, n, embed = x.shape
    dtype = x.dtype
    rows = x.reshape(batch * n, embed)
    network = (
        *(encoder_l_weight, encoder_l_bias, attention_layer_attn_0_weight),
        *(attention_layer_attn_0_bias, attention_layer_attn_2_weight[0], output_weight[0]),
    )
    scores, value = scratch.empty((2, batch, n), dtype)
    # attention, slope of the logit, gradient, perturbation, perturbed attention
    made = scratch.empty((5, batch, n), dtype)
    logit = scratch.empty(batch, dtype)
    losses = scratch.empty((2, batch), dtype)
    work = x.size * len(encoder_l_weight)
    workers = None if work > 2**17 else 1
    with single_threaded_blas():
        run_workers(
            score_words, rows, *network, scores.reshape(-1), value.reshape(-1),
            np.zeros(1, np.int64), workers=workers,
        )  # fmt: skip
        run_workers(
            perturb_sentences, scores, value, mask, label, pos_weight[:, 0].copy(),
            np.zeros((0, 0), dtype) if direction is None else direction, output_bias,
            VARIANTS.index(variant), dtype.type(xi), made, logit, losses, np.zeros(1, np.int64),
            workers=None if x.shape[1] * batch > 2**13 else 1,
        )  # fmt: skip
        a, slope, g, r, a_perturbed = made
        importance = None
        if want & {"grad_importance", "pearson"}:
            importance = scratch.empty((batch, n), dtype)
            run_workers(
                weigh_words, rows, *network, a.reshape(-1), slope.reshape(-1),
                importance.reshape(-1), np.zeros(1, np.int64), workers=workers,
            )  # fmt: skip
    L, L_adv = losses.mean(axis=1)
    dir_normed = None
    if variant == "iat_released" and "dir_normed" in want:
        between = scores[:, None] - scores[None]
        dir_normed = between / np.maximum(np.sqrt((between**2).sum(axis=1))[:, None], FLOOR)
    return {
        "logit": logit[:, None],
        "scores": scores,
        "attention": a,
        "d_grad": g,
        "perturbation": r,
        "attention_perturbed": a_perturbed,
        "grad_importance": importance,
        "pearson": None if importance is None else pearson(a, importance, mask),
        "loss_total": np.asarray(L + lam_adv * L_adv, dtype),
        "loss_adv": L_adv,
        "dir_normed": dir_normed,
    }


@EXHIBIT.path
def attend(
    hidden: Float[np.ndarray, "batch n width"],
    query: Float[np.ndarray, "batch width"],
    mask: Bool[np.ndarray, "batch n"],
    bc_tanh_attn_0_weight: Float[np.ndarray, "units width"],
    bc_tanh_attn_0_bias: Float[np.ndarray, "units"],
    bc_tanh_attn_2_weight: Float[np.ndarray, "1 units"],
    bc_dot_attn1_weight: Float[np.ndarray, "1 width"],
    qa_tanh_attn1p_weight: Float[np.ndarray, "units width"],
    qa_tanh_attn1p_bias: Float[np.ndarray, "units"],
    qa_tanh_attn1q_weight: Float[np.ndarray, "units width"],
    qa_tanh_attn1q_bias: Float[np.ndarray, "units"],
    qa_tanh_attn2_weight: Float[np.ndarray, "1 units"],
) -> dict[str, np.ndarray]:
    """See the reference. The two additive layers share one product with the hidden states."""
    batch, n, _ = hidden.shape
    asked = query @ qa_tanh_attn1q_weight.T + (qa_tanh_attn1q_bias + qa_tanh_attn1p_bias)
    out = scratch.empty((4, batch, n), hidden.dtype)
    with single_threaded_blas():
        run_workers(
            attend_sentences, hidden, query, mask,
            np.concatenate([bc_tanh_attn_0_weight, qa_tanh_attn1p_weight]),
            bc_tanh_attn_0_bias, asked, bc_tanh_attn_2_weight[0], qa_tanh_attn2_weight[0],
            bc_dot_attn1_weight[0], out, np.zeros(1, np.int64),
            workers=None if hidden.size * len(bc_tanh_attn_0_bias) > 2**16 else 1,
        )  # fmt: skip
    return dict(zip(("bc_tanh", "bc_dot", "qa_tanh", "qa_dot"), out))


def pearson(
    a: Float[np.ndarray, "batch n"],
    b: Float[np.ndarray, "batch n"],
    mask: Bool[np.ndarray, "batch n"],
) -> Float[np.ndarray, "batch"]:
    """Correlation over the words; NaN where one of the two is constant. Both are 0 off the mask."""
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1).astype(a.dtype)

    def centred(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d = (y - y.sum(axis=1, keepdims=True) / count) * mask
        square = (d**2).sum(axis=1)
        return d, np.where(square <= CONSTANT * (y**2).sum(axis=1), np.nan, square)

    (da, va), (db, vb) = centred(a), centred(b)
    return ((da * db).sum(axis=1) / np.sqrt(va * vb)).astype(a.dtype)


@block
def add_tanh(rows, bias):
    """rows <- tanh(rows + bias)."""
    for i in range(rows.shape[0]):
        row = packed(rows[i])
        for e in range(bias.size):
            row[e] = tanh(row[e] + bias[e])


@block
def masked_softmax(row, mask):
    """(2), in place: masked scores count as 0, then their weights are dropped."""
    zero = row.dtype.type(0)
    for t in range(row.size):
        if not mask[t]:
            row[t] = zero
    inverse = row.dtype.type(1) / exp_minus(row, row_max(row))
    kept = zero
    for t in range(row.size):
        p = row[t] * inverse if mask[t] else zero
        row[t] = p
        kept += p
    inverse = row.dtype.type(1) / (kept + row.dtype.type(1e-13))
    for t in range(row.size):
        row[t] *= inverse


@block
def softplus(x):
    """log(1 + exp(x)), without overflow."""
    return max(x, type(x)(0)) + np.log1p(exp(-abs(x)))


@block
def encode(put, x, We, be, W1, b1, h, units):
    """Hidden states and the attention layer's units of a tile of words."""
    gemm_nt(put, x, We, h)
    add_tanh(h, be)
    gemm_nt(put, h, W1, units)
    add_tanh(units, b1)


@worker
def score_words(x, We, be, W1, b1, w2, wo, scores, value, counter):
    """(1) for tiles of words: scores and wo . h."""
    put = scalars(1, 0, x.dtype)
    h = scratch.tile((ROWS, We.shape[0]), x.dtype)
    units = scratch.tile((ROWS, W1.shape[0]), x.dtype)
    while True:
        first = fetch_add(counter, ROWS)
        if first >= x.shape[0]:
            break
        count = min(ROWS, x.shape[0] - first)
        encode(put, x[first : first + count], We, be, W1, b1, h[:count], units[:count])
        for i in range(count):
            value[first + i] = dot(h[i], wo)
            scores[first + i] = dot(units[i], w2)


@worker
def perturb_sentences(
    scores, value, mask, label, pos_weight, direction, bias, variant, xi, made, logit, losses, counter
):  # fmt: skip
    """(2)-(6) for sentences taken from the counter. made: a, slope, g, r, a perturbed."""
    batch, n = scores.shape
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    while True:
        b = fetch_add(counter, 1)
        if b >= batch:
            break
        seen = mask[b]
        slope, g, r = made[1, b], made[2, b], made[3, b]
        weight = pos_weight[b] if label[b] == 1 else one
        wrong = -one if label[b] == 1 else one
        for t in range(n):
            r[t] = zero
        for passed in range(2):  # clean, then perturbed
            a = made[4 * passed, b]
            for t in range(n):
                a[t] = scores[b, t] + r[t]
            masked_softmax(a, seen)
            z = dot(a, value[b]) + bias[0]
            losses[passed, b] = weight * softplus(wrong * z)
            if passed == 1:
                break
            logit[b] = z
            error = weight * wrong * np.exp(-softplus(-wrong * z)) / scores.dtype.type(batch)
            first = 0
            while first < n - 1 and not seen[first]:
                first += 1
            mean = zero
            for t in range(n):  # counted from the first word, equal values give exactly 0
                slope[t] = value[b, t] - value[b, first] if seen[t] else zero
                mean += a[t] * slope[t]
            for t in range(n):
                slope[t] = a[t] * (slope[t] - mean)
                g[t] = slope[t] * error
                r[t] = g[t]
            length = xi
            if variant == RP:
                for t in range(n):
                    r[t] = direction[b, t] if seen[t] else zero
            elif variant == IAT:
                length *= spread_steps(scores[b], g, seen, first, r)
            elif variant == IAT_RELEASED:
                length = -length
            if variant != IAT:
                length /= max(np.sqrt(dot(r, r)), r.dtype.type(FLOOR))
            for t in range(n):
                r[t] *= length


@block
def spread_steps(scores, g, seen, first, r):
    """(5) without its n x n differences: r <- g c, and 1 over the length of g c^(1/2).

    c_t = sum_k d_{t,k}^2 is 1 unless all scores of the sentence are equal (see the torch path).
    """
    zero, one = r.dtype.type(0), r.dtype.type(1)
    mean, count = zero, zero
    for t in range(r.size):
        if seen[t]:
            mean += scores[t] - scores[first]
            count += one
    mean /= max(count, one)
    squares = zero
    for t in range(r.size):
        r[t] = scores[t] - scores[first] - mean if seen[t] else zero
        squares += r[t] * r[t]
    total = zero
    for t in range(r.size):
        apart = min(np.sqrt(count * r[t] * r[t] + squares) / r.dtype.type(FLOOR), one)
        c = apart * apart
        total += g[t] * g[t] * c
        r[t] = g[t] * c
    return one / max(np.sqrt(total), r.dtype.type(FLOOR))


@worker
def weigh_words(x, We, be, W1, b1, w2, wo, a, slope, importance, counter):
    """|| d logit / d x_t || for tiles of words: the encoder again, and back through it."""
    put, add = scalars(1, 0, x.dtype), scalars(1, 1, x.dtype)
    h = scratch.tile((ROWS, We.shape[0]), x.dtype)
    units = scratch.tile((ROWS, W1.shape[0]), x.dtype)
    back = scratch.tile((ROWS, We.shape[0]), x.dtype)
    deep = scratch.tile((ROWS, x.shape[1]), x.dtype)
    one = x.dtype.type(1)
    while True:
        first = fetch_add(counter, ROWS)
        if first >= x.shape[0]:
            break
        count = min(ROWS, x.shape[0] - first)
        encode(put, x[first : first + count], We, be, W1, b1, h[:count], units[:count])
        for i in range(count):
            for e in range(w2.size):
                units[i, e] = slope[first + i] * (one - units[i, e] * units[i, e]) * w2[e]
            for e in range(wo.size):
                back[i, e] = a[first + i] * wo[e]
        gemm_nn(add, units[:count], W1, back[:count])
        for i in range(count):
            for e in range(wo.size):
                back[i, e] *= one - h[i, e] * h[i, e]
        gemm_nn(put, back[:count], We, deep[:count])
        for i in range(count):
            importance[first + i] = np.sqrt(dot(deep[i], deep[i]))


@worker
def attend_sentences(hidden, query, mask, W, b1, asked, w2, qa_w2, w, out, counter):
    """All four layers of sentences taken from the counter; W (2 units, width) stacks both."""
    batch, n, width = hidden.shape
    count = b1.size
    put = scalars(1, 0, hidden.dtype)
    units = scratch.tile((ROWS, 2 * count), hidden.dtype)
    share = hidden.dtype.type(1) / np.sqrt(hidden.dtype.type(width))
    while True:
        b = fetch_add(counter, 1)
        if b >= batch:
            break
        for first in range(0, n, ROWS):
            last = min(first + ROWS, n)
            gemm_nt(put, hidden[b, first:last], W, units[: last - first])
            add_tanh(units[: last - first, :count], b1)
            add_tanh(units[: last - first, count:], asked[b])
            for t in range(first, last):
                row = units[t - first]
                out[0, b, t] = dot(w2, row[:count])
                out[1, b, t] = dot(w, hidden[b, t]) * share
                out[2, b, t] = dot(qa_w2, row[count:])
                out[3, b, t] = dot(query[b], hidden[b, t]) * share
        for layer in range(4):
            masked_softmax(out[layer, b], mask[b])
