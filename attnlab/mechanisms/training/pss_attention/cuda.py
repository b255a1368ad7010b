"""Progressive self-supervised attention on CUDA: one block a sentence, softmax in shared memory."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.reduce import block_least, block_most, block_sum

from . import EXHIBIT

FAR = 40  # words
NORMS = {"given": 0, "guarded": 1, "released": 2}


@EXHIBIT.path
def mine(
    alphas: Any,
    wids: Any,
    dist: Any,
    *,
    max_entropy_bits: float = 4.0,
    skip_empty: bool = True,
) -> dict[str, Any]:
    """See the reference."""
    rounds, batch, n = alphas.shape
    dtype = alphas.dtype
    entropy = device.empty((rounds, batch), dtype)
    extracted = device.empty((rounds, batch), np.int64)
    flags = device.empty((4, batch, n), dtype)  # mask, amask, avalue, position weight
    masks = device.empty((rounds + 1, batch, n), dtype)
    ids = device.empty((rounds + 1, batch, n), np.int64)
    eps = dtype.type(max_entropy_bits)
    _extract_kernel(dtype.name)[(batch, rounds), THREADS](
        alphas, eps, skip_empty, entropy, extracted
    )
    _erase_kernel(dtype.name)[device.blocks(batch * n), THREADS](
        alphas, wids, dist, extracted, flags, masks, ids
    )
    return {
        "entropy_bits": entropy,
        "mask": flags[0],
        "amask": flags[1],
        "avalue": flags[2],
        "position_weight": flags[3],
        "erase_mask_after": [masks[k] for k in range(rounds + 1)],
        "erased_wids_after": [ids[k] for k in range(rounds + 1)],
    }


@EXHIBIT.path
def classify(
    text: Any,
    text_length: Any,
    aspect: Any,
    polarity: Any,
    attention_mask: Any,
    attention_value: Any,
    embedding_A: Any,
    embedding_B: Any,
    embedding_C: Any,
    M: Any,
    H: Any,
    W: Any,
    mask: Any = None,
    *,
    hops: int = 1,
    lam: float = 1.0,
    value_norm: str = "given",
) -> dict[str, Any]:
    """See the reference."""
    batch, n = text.shape
    dtype = W.dtype
    p, alpha = device.empty((batch, 3), dtype), device.empty((batch, n), dtype)
    each = device.empty((2, batch), dtype)  # class loss, attention loss
    states = device.empty((3, batch, M.shape[0]), dtype)  # u, u of the next hop, u M
    mask = device.empty((0, 0), np.bool_) if mask is None else mask
    _read_kernel(dtype.name)[batch, THREADS](
        text, text_length, aspect, polarity, attention_mask, attention_value, mask,
        embedding_A, embedding_B, embedding_C, M, H, W, hops, NORMS[value_norm],
        states, p, alpha, each,
    )  # fmt: skip
    losses = [device.empty((), dtype) for _ in range(3)]
    _losses_kernel(dtype.name)[1, THREADS](each, dtype.type(lam), *losses)
    made = dict(zip(("class_loss", "attention_loss", "loss"), losses))
    return {"probabilities": p, "alpha": alpha} | made


@EXHIBIT.path
def gradient_weights(gradients: Any, embedding: Any, mask: Any, target_mask: Any) -> dict[str, Any]:
    """See the reference."""
    batch, n, _ = embedding.shape
    alpha = device.empty((batch, n), embedding.dtype)
    kind = embedding.dtype.name
    _product_kernel(kind)[batch * n, THREADS](gradients, embedding, mask, target_mask, alpha)
    _normalise_kernel(kind)[batch, THREADS](mask, target_mask, alpha)
    return {"alpha": alpha}


@cache
def _extract_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(alphas, eps, skip_empty, entropy, extracted):
        """(3), (4): a block finds one sentence's entropy and first largest weight, -1 for none."""
        scratch = cuda.shared.array(THREADS, kind)
        places = cuda.shared.array(THREADS, numba.int64)
        b, k, thread = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
        n = alphas.shape[2]
        bits, largest = kind(0), kind(0)
        for i in range(thread, n, THREADS):
            w = abs(alphas[k, b, i])
            if w > 0:
                bits -= w * math.log2(w)
            if w > largest:
                largest = w
        bits, largest = block_sum(bits, scratch), block_most(largest, scratch)
        place = n
        for i in range(thread, n, THREADS):
            if abs(alphas[k, b, i]) == largest and i < place:
                place = i
        place = block_least(place, places)
        if thread == 0:
            entropy[k, b] = bits
            extracted[k, b] = place if bits < eps and (largest > 0 or not skip_empty) else -1

    return kernel


@cache
def _erase_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(alphas, wids, dist, extracted, flags, masks, ids):
        """One thread a word walks through the rounds."""
        item = cuda.grid(1)
        if item >= wids.size:
            return
        b, i = item // wids.shape[1], item % wids.shape[1]
        d, word = dist[b, i], wids[b, i]
        left = kind(1) if d >= 0 else kind(0)
        amask, avalue = kind(0), kind(0)
        flags[0, b, i] = left
        flags[3, b, i] = 1 - kind(d) / FAR if 0 <= d <= FAR else 0
        masks[0, b, i] = left
        ids[0, b, i] = word
        for k in range(extracted.shape[0]):
            if extracted[k, b] == i:
                left, word, amask = kind(0), 0, kind(1)
                if alphas[k, b, i] > 0:
                    avalue = kind(1)
            masks[k + 1, b, i] = left
            ids[k + 1, b, i] = word
        flags[1, b, i] = amask
        flags[2, b, i] = avalue

    return kernel


@cache
def _read_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(
        text, text_length, aspect, polarity, amask, avalue, mask, A, B, C, M, H, W, hops, norm,
        states, p, alpha, each,
    ):  # fmt: skip
        """(1), (2), (5): a block reads one sentence. Threads own words, then dimensions of u."""
        scratch = cuda.shared.array(THREADS, kind)
        b, thread = cuda.blockIdx.x, cuda.threadIdx.x
        n, dim, length = text.shape[1], M.shape[0], text_length[b]
        for e in range(thread, dim, THREADS):
            total = kind(0)
            for a in range(aspect.shape[1]):
                total += B[aspect[b, a], e]
            states[0, b, e] = total / kind(aspect.shape[1])
        cuda.syncthreads()
        for hop in range(hops):
            u, following, q = states[hop % 2, b], states[1 - hop % 2, b], states[2, b]
            for e in range(thread, dim, THREADS):
                total, carried = kind(0), kind(0)
                for i in range(dim):
                    total += u[i] * M[i, e]
                    carried += u[i] * H[i, e]
                q[e] = total
                following[e] = carried
            cuda.syncthreads()
            top = kind(-math.inf)
            for j in range(thread, n, THREADS):
                score = kind(-math.inf)
                if j < length and (mask.size == 0 or mask[b, j]):
                    score = kind(0)
                    for e in range(dim):
                        score += A[text[b, j], e] * q[e]
                alpha[b, j] = score
                if score > top:
                    top = score
            top = block_most(top, scratch)
            total = kind(0)
            for j in range(thread, n, THREADS):
                weight = math.exp(alpha[b, j] - top) if alpha[b, j] > -math.inf else kind(0)
                alpha[b, j] = weight
                total += weight
            total = block_sum(total, scratch)
            for j in range(thread, n, THREADS):
                alpha[b, j] = alpha[b, j] / total if total > 0 else kind(0)
            cuda.syncthreads()
            for e in range(thread, dim, THREADS):
                total = following[e]
                for j in range(length):
                    total += alpha[b, j] * C[text[b, j], e]
                following[e] = total
            cuda.syncthreads()
        if thread < 3:
            total = kind(0)
            for e in range(dim):
                total += states[hops % 2, b, e] * W[e, thread]
            p[b, thread] = total
        cuda.syncthreads()
        active = kind(0)
        for j in range(thread, n, THREADS):
            active += avalue[b, j]
        active = block_sum(active, scratch)
        if norm == 0 or (norm == 1 and active < 1):
            active = kind(1)
        gaps = kind(0)
        for j in range(thread, n, THREADS):
            gap = (alpha[b, j] if amask[b, j] else kind(0)) - avalue[b, j] / active
            gaps += gap * gap
        gaps = block_sum(gaps, scratch)
        if thread == 0:
            wanted, top = p[b, polarity[b]], p[b, 0]
            for c in range(1, 3):
                if p[b, c] > top:
                    top = p[b, c]
            total = kind(0)
            for c in range(3):
                p[b, c] = math.exp(p[b, c] - top)
                total += p[b, c]
            for c in range(3):
                p[b, c] /= total
            each[0, b] = top + math.log(total) - wanted
            each[1, b] = gaps

    return kernel


@cache
def _losses_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(each, lam, class_loss, attention_loss, loss):
        """The means over sentences, and (6)."""
        scratch = cuda.shared.array(THREADS, kind)
        first, second = kind(0), kind(0)
        for b in range(cuda.threadIdx.x, each.shape[1], THREADS):
            first += each[0, b]
            second += each[1, b]
        first = block_sum(first, scratch) / kind(each.shape[1])
        second = block_sum(second, scratch) / kind(each.shape[1])
        if cuda.threadIdx.x == 0:
            class_loss[()] = first
            attention_loss[()] = second
            loss[()] = first + lam * second

    return kernel


@cache
def _product_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(gradients, embedding, mask, target_mask, s):
        """A block sums one word's gradient . embedding over passes and dimensions."""
        scratch = cuda.shared.array(THREADS, kind)
        n, thread = embedding.shape[1], cuda.threadIdx.x
        b, i = cuda.blockIdx.x // n, cuda.blockIdx.x % n
        total = kind(0)
        for e in range(thread, embedding.shape[2], THREADS):
            slope = kind(0)
            for r in range(gradients.shape[0]):
                slope += gradients[r, b, i, e]
            total += slope * embedding[b, i, e]
        total = block_sum(total, scratch) / kind(gradients.shape[0])
        if thread == 0:
            s[b, i] = total if mask[b, i] and not target_mask[b, i] else kind(0)

    return kernel


@cache
def _normalise_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(mask, target_mask, s):
        """s <- (s - min s) off the target, over its sum; a block a sentence."""
        scratch = cuda.shared.array(THREADS, kind)
        b, thread, n = cuda.blockIdx.x, cuda.threadIdx.x, s.shape[1]
        low = s[b, 0]
        for i in range(thread, n, THREADS):
            if s[b, i] < low:
                low = s[b, i]
        low = block_least(low, scratch)
        total = kind(0)
        for i in range(thread, n, THREADS):
            s[b, i] = s[b, i] - low if mask[b, i] and not target_mask[b, i] else kind(0)
            total += s[b, i]
        total = block_sum(total, scratch)
        for i in range(thread, n, THREADS):
            if total > 0:
                s[b, i] /= total

    return kernel
