"""Adversarial training of attention on CUDA: products by tiles, then one block a sentence."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.matmul import linear, matmul
from attnlab.kernels.cuda.reduce import block_least, block_most, block_sum

from . import EXHIBIT, VARIANTS

FLOOR, CONSTANT, TINY = 1e-12, 1e-12, 1e-13
_, IAT, IAT_RELEASED, RP = range(4)
assert VARIANTS == ("at", "iat", "iat_released", "rp")


@EXHIBIT.path
def adversarial_step(
    x: Any,
    mask: Any,
    label: Any,
    pos_weight: Any,
    encoder_l_weight: Any,
    encoder_l_bias: Any,
    attention_layer_attn_0_weight: Any,
    attention_layer_attn_0_bias: Any,
    attention_layer_attn_2_weight: Any,
    output_weight: Any,
    output_bias: Any,
    direction: Any = None,
    *,
    variant: str = "at",
    xi: float = 1.0,
    lam_adv: float = 1.0,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference."""
    batch, n, embed = x.shape
    dtype, kind = x.dtype, x.dtype.name
    h = _tanh(linear(x, encoder_l_weight), encoder_l_bias)
    units = _tanh(linear(h, attention_layer_attn_0_weight), attention_layer_attn_0_bias)
    scores = linear(units, attention_layer_attn_2_weight).reshape(batch, n)
    value = linear(h, output_weight).reshape(batch, n)

    a, slope, g, r, a_perturbed = (device.empty((batch, n), dtype) for _ in range(5))
    logit, losses = device.empty((batch, 1), dtype), device.empty((2, batch), dtype)
    direction = device.empty((0, 0), dtype) if direction is None else direction
    _perturb_kernel(kind)[batch, THREADS](
        scores, value, mask, label, pos_weight, direction, output_bias, VARIANTS.index(variant),
        dtype.type(xi), a, slope, g, r, a_perturbed, logit, losses,
    )  # fmt: skip
    total, adverse = device.empty((), dtype), device.empty((), dtype)
    _losses_kernel(kind)[1, THREADS](losses, dtype.type(lam_adv), total, adverse)
    made = {
        "logit": logit,
        "scores": scores,
        "attention": a,
        "d_grad": g,
        "perturbation": r,
        "attention_perturbed": a_perturbed,
        "loss_total": total,
        "loss_adv": adverse,
    }
    if want & {"grad_importance", "pearson"}:
        W1, words = attention_layer_attn_0_weight, batch * n
        grid = (words, device.blocks(W1.shape[0]))
        _unit_slopes_kernel(kind)[grid, THREADS](
            slope.reshape(words),
            attention_layer_attn_2_weight.reshape(W1.shape[0]),
            units.reshape(words, W1.shape[0]),
        )
        back = matmul(units.reshape(1, words, W1.shape[0]), W1.reshape(1, *W1.shape))
        grid = (words, device.blocks(W1.shape[1]))
        _state_slopes_kernel(kind)[grid, THREADS](
            a.reshape(words), output_weight.reshape(W1.shape[1]), h.reshape(back.shape), back
        )
        deep = matmul(back, encoder_l_weight.reshape(1, *encoder_l_weight.shape))
        importance, correlation = device.empty((batch, n), dtype), device.empty(batch, dtype)
        _norm_kernel(kind)[words, THREADS](deep.reshape(words, embed), importance.reshape(words))
        _pearson_kernel(kind)[batch, THREADS](a, importance, mask, correlation)
        made |= {"grad_importance": importance, "pearson": correlation}
    if variant == "iat_released" and "dir_normed" in want:
        made["dir_normed"] = device.empty((batch, batch, n), dtype)
        _directions_kernel(kind)[(device.blocks(n), batch), THREADS](scores, made["dir_normed"])
    return made


@EXHIBIT.path
def attend(
    hidden: Any,
    query: Any,
    mask: Any,
    bc_tanh_attn_0_weight: Any,
    bc_tanh_attn_0_bias: Any,
    bc_tanh_attn_2_weight: Any,
    bc_dot_attn1_weight: Any,
    qa_tanh_attn1p_weight: Any,
    qa_tanh_attn1p_bias: Any,
    qa_tanh_attn1q_weight: Any,
    qa_tanh_attn1q_bias: Any,
    qa_tanh_attn2_weight: Any,
) -> dict[str, Any]:
    """See the reference."""
    batch, n, width = hidden.shape
    root = hidden.dtype.type(1 / width**0.5)
    one = hidden.dtype.type(1)
    asked = linear(query, qa_tanh_attn1q_weight, qa_tanh_attn1q_bias)
    first = _tanh(linear(hidden, bc_tanh_attn_0_weight), bc_tanh_attn_0_bias)
    both = _tanh(linear(hidden, qa_tanh_attn1p_weight), qa_tanh_attn1p_bias, asked)
    question = query.reshape(batch, 1, width)
    scores = {
        "bc_tanh": (linear(first, bc_tanh_attn_2_weight), one),
        "bc_dot": (linear(hidden, bc_dot_attn1_weight), root),
        "qa_tanh": (linear(both, qa_tanh_attn2_weight), one),
        "qa_dot": (matmul(hidden, question, transposed=True), root),
    }
    out = {}
    for name, (s, scale) in scores.items():
        out[name] = s.reshape(batch, n)
        _softmax_kernel(hidden.dtype.name)[batch, THREADS](out[name], mask, scale)
    return out


def _tanh(rows: Any, bias: Any, asked: Any = None) -> Any:
    """rows (batch, n, units) <- tanh(rows + bias [+ asked (batch, units)])."""
    asked = device.empty((0, 0), rows.dtype) if asked is None else asked
    _tanh_kernel()[device.blocks(rows.size), THREADS](rows, bias, asked)
    return rows


@cache
def _tanh_kernel() -> Any:
    @cuda.jit
    def kernel(rows, bias, asked):
        item = cuda.grid(1)
        n, units = rows.shape[1], rows.shape[2]
        if item < rows.size:
            b, t, e = item // units // n, item // units % n, item % units
            s = rows[b, t, e] + bias[e]
            if asked.size:
                s += asked[b, e]
            rows[b, t, e] = math.tanh(s)

    return kernel


@cache
def _softmax(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit(device=True)
    def masked_softmax(row, mask, scale, scratch):
        """(2) on row, in place, by all threads of a block; padding counts as score 0."""
        thread = cuda.threadIdx.x
        top = kind(-math.inf)
        for t in range(thread, row.size, THREADS):
            row[t] = row[t] * scale if mask[t] else kind(0)
            if row[t] > top:
                top = row[t]
        top = block_most(top, scratch)
        total, kept = kind(0), kind(0)
        for t in range(thread, row.size, THREADS):
            row[t] = math.exp(row[t] - top)
            total += row[t]
            if mask[t]:
                kept += row[t]
        total, kept = block_sum(total, scratch), block_sum(kept, scratch)
        for t in range(thread, row.size, THREADS):
            row[t] = row[t] / total / (kept / total + kind(TINY)) if mask[t] else kind(0)
        cuda.syncthreads()

    return masked_softmax


@cache
def _softmax_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)
    masked_softmax = _softmax(dtype)

    @cuda.jit
    def kernel(scores, mask, scale):
        scratch = cuda.shared.array(THREADS, kind)
        b = cuda.blockIdx.x
        masked_softmax(scores[b], mask[b], scale, scratch)

    return kernel


@cuda.jit(device=True)
def softplus(x):
    """log(1 + exp(x)), without overflow."""
    return (x if x > 0 else x * 0) + math.log1p(math.exp(-abs(x)))


@cache
def _perturb_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)
    masked_softmax = _softmax(dtype)

    @cuda.jit(device=True)
    def average(weights, values, scratch):
        total = kind(0)
        for t in range(cuda.threadIdx.x, weights.size, THREADS):
            total += weights[t] * values[t]
        return block_sum(total, scratch)

    @cuda.jit(device=True)
    def spread_steps(scores, g, seen, first, r, scratch):
        """(5): r <- g c, c_t = sum_k d_{t,k}^2; returns the length of g c^(1/2)."""
        thread = cuda.threadIdx.x
        mean, count, squares = kind(0), kind(0), kind(0)
        for t in range(thread, r.size, THREADS):
            if seen[t]:
                mean += scores[t] - scores[first]
                count += kind(1)
        count = block_sum(count, scratch)
        mean = block_sum(mean, scratch)
        if count > 0:
            mean /= count
        for t in range(thread, r.size, THREADS):
            r[t] = scores[t] - scores[first] - mean if seen[t] else kind(0)
            squares += r[t] * r[t]
        squares = block_sum(squares, scratch)
        total = kind(0)
        for t in range(thread, r.size, THREADS):
            apart = math.sqrt(count * r[t] * r[t] + squares) / kind(FLOOR)
            c = apart * apart if apart < 1 else kind(1)
            total += g[t] * g[t] * c
            r[t] = g[t] * c
        return math.sqrt(block_sum(total, scratch))

    @cuda.jit
    def kernel(
        scores, value, mask, label, pos_weight, direction, bias, variant, xi,
        a, slope, g, r, a_perturbed, logit, losses,
    ):  # fmt: skip
        """(2)-(6): a block takes one sentence."""
        scratch = cuda.shared.array(THREADS, kind)
        places = cuda.shared.array(THREADS, numba.int64)
        b, thread = cuda.blockIdx.x, cuda.threadIdx.x
        n, seen = scores.shape[1], mask[b]
        first = n
        for t in range(thread, n, THREADS):
            a[b, t] = scores[b, t]
            if seen[t] and t < first:
                first = t
        first = block_least(first, places)
        if first == n:
            first = 0
        masked_softmax(a[b], seen, kind(1), scratch)
        weight = pos_weight[b, 0] if label[b] == 1 else kind(1)
        wrong = kind(-1) if label[b] == 1 else kind(1)
        z = average(a[b], value[b], scratch) + bias[0]
        error = weight * wrong * math.exp(-softplus(-wrong * z)) / kind(scores.shape[0])
        for t in range(thread, n, THREADS):
            slope[b, t] = value[b, t] - value[b, first] if seen[t] else kind(0)
        cuda.syncthreads()
        mean = average(a[b], slope[b], scratch)
        for t in range(thread, n, THREADS):
            slope[b, t] = a[b, t] * (slope[b, t] - mean)
            g[b, t] = slope[b, t] * error
            r[b, t] = g[b, t]
            if variant == RP:
                r[b, t] = direction[b, t] if seen[t] else kind(0)
        cuda.syncthreads()
        if variant == IAT:
            length = spread_steps(scores[b], g[b], seen, first, r[b], scratch)
        else:
            length = math.sqrt(average(r[b], r[b], scratch))
        step = xi / (length if length > kind(FLOOR) else kind(FLOOR))
        if variant == IAT_RELEASED:
            step = -step
        for t in range(thread, n, THREADS):
            r[b, t] *= step
            a_perturbed[b, t] = scores[b, t] + r[b, t]
        cuda.syncthreads()
        masked_softmax(a_perturbed[b], seen, kind(1), scratch)
        shaken = average(a_perturbed[b], value[b], scratch) + bias[0]
        if thread == 0:
            logit[b, 0] = z
            losses[0, b] = weight * softplus(wrong * z)
            losses[1, b] = weight * softplus(wrong * shaken)

    return kernel


@cache
def _losses_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(losses, lam_adv, total, adverse):
        """The means over sentences, and their sum."""
        scratch = cuda.shared.array(THREADS, kind)
        clean, shaken = kind(0), kind(0)
        for b in range(cuda.threadIdx.x, losses.shape[1], THREADS):
            clean += losses[0, b]
            shaken += losses[1, b]
        clean = block_sum(clean, scratch) / kind(losses.shape[1])
        shaken = block_sum(shaken, scratch) / kind(losses.shape[1])
        if cuda.threadIdx.x == 0:
            total[()] = clean + lam_adv * shaken
            adverse[()] = shaken

    return kernel


@cache
def _unit_slopes_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(slope, w2, units):
        """units <- slope (1 - units^2) w2; words are rows."""
        word, e = cuda.blockIdx.x, cuda.blockIdx.y * THREADS + cuda.threadIdx.x
        if e < w2.size:
            units[word, e] = slope[word] * (kind(1) - units[word, e] * units[word, e]) * w2[e]

    return kernel


@cache
def _state_slopes_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(a, wo, h, back):
        """back <- (1 - h^2) (a wo + back); h, back (1, words, width)."""
        word, e = cuda.blockIdx.x, cuda.blockIdx.y * THREADS + cuda.threadIdx.x
        if e < wo.size:
            state = h[0, word, e]
            back[0, word, e] = (kind(1) - state * state) * (a[word] * wo[e] + back[0, word, e])

    return kernel


@cache
def _norm_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(rows, norms):
        """norms[i] <- || rows[i] ||, a block a row."""
        scratch = cuda.shared.array(THREADS, kind)
        word, total = cuda.blockIdx.x, kind(0)
        for e in range(cuda.threadIdx.x, rows.shape[1], THREADS):
            total += rows[word, e] * rows[word, e]
        total = block_sum(total, scratch)
        if cuda.threadIdx.x == 0:
            norms[word] = math.sqrt(total)

    return kernel


@cache
def _pearson_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(a, b, mask, out):
        """Correlation over a sentence's words, by one block; NaN where one of the two is constant."""
        scratch = cuda.shared.array(THREADS, kind)
        i, thread = cuda.blockIdx.x, cuda.threadIdx.x
        count, mean_a, mean_b = kind(0), kind(0), kind(0)
        size_a, size_b = kind(0), kind(0)
        for t in range(thread, a.shape[1], THREADS):
            if mask[i, t]:
                count += kind(1)
                mean_a += a[i, t]
                mean_b += b[i, t]
                size_a += a[i, t] * a[i, t]
                size_b += b[i, t] * b[i, t]
        count = block_sum(count, scratch)
        if count < 1:
            count = kind(1)
        mean_a, mean_b = block_sum(mean_a, scratch) / count, block_sum(mean_b, scratch) / count
        size_a, size_b = block_sum(size_a, scratch), block_sum(size_b, scratch)
        va, vb, both = kind(0), kind(0), kind(0)
        for t in range(thread, a.shape[1], THREADS):
            if mask[i, t]:
                da, db = a[i, t] - mean_a, b[i, t] - mean_b
                va += da * da
                vb += db * db
                both += da * db
        va, vb, both = block_sum(va, scratch), block_sum(vb, scratch), block_sum(both, scratch)
        if thread == 0:
            flat = va <= kind(CONSTANT) * size_a or vb <= kind(CONSTANT) * size_b
            out[i] = kind(math.nan) if flat else both / math.sqrt(va * vb)

    return kernel


@cache
def _directions_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(scores, out):
        """out[b, k, t] <- (scores[b, t] - scores[k, t]) over its length along k; a thread a (b, t)."""
        t, b = cuda.grid(1), cuda.blockIdx.y
        if t >= scores.shape[1]:
            return
        total = kind(0)
        for k in range(scores.shape[0]):
            gap = scores[b, t] - scores[k, t]
            total += gap * gap
        length = math.sqrt(total)
        if length < kind(FLOOR):
            length = kind(FLOOR)
        for k in range(scores.shape[0]):
            out[b, k, t] = (scores[b, t] - scores[k, t]) / length

    return kernel
