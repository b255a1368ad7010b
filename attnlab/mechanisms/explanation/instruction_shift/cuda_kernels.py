"""What the CUDA path of instruction shift launches; a kernel is made when it is first asked for."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
from numba import cuda

from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.reduce import block_most, block_sum
from attnlab.kernels.cuda.tiles import least, most


@cache
def read() -> Any:
    @cuda.jit
    def kernel(emb, bos, input_ids, output_ids, x):
        """x: embeddings of bos, the prompt, and the response but its last token."""
        place = cuda.grid(1)
        if place < x.size:
            r, e = place // x.shape[1], place % x.shape[1]
            token = bos
            if r > input_ids.size:
                token = output_ids[r - 1 - input_ids.size]
            elif r > 0:
                token = input_ids[r - 1]
            x[r, e] = emb[token, e]

    return kernel


@cache
def weights() -> Any:
    @cuda.jit
    def kernel(S, scale, n, A):
        """A block a row: S scaled, 0 in the future; A its softmax over positions 0..n + row."""
        part = cuda.shared.array(THREADS, numba.float64)
        j, thread = cuda.blockIdx.x, cuda.threadIdx.x
        seen = n + j + 1
        top = numba.float64(-math.inf)
        for i in range(thread, S.shape[1], THREADS):
            S[j, i] = S[j, i] * scale if i < seen else 0
            if i < seen:
                top = most(top, numba.float64(S[j, i]))
        top = block_most(top, part)
        total = numba.float64(0)
        for i in range(thread, seen, THREADS):
            total += math.exp(S[j, i] - top)
        total = block_sum(total, part)
        for i in range(thread, S.shape[1], THREADS):
            A[j, i] = math.exp(S[j, i] - top) / total if i < seen else 0

    return kernel


@cache
def plus() -> Any:
    @cuda.jit
    def kernel(h, x, n):
        place = cuda.grid(1)
        if place < h.size:
            j, e = place // h.shape[1], place % h.shape[1]
            h[j, e] += x[n + j, e]

    return kernel


@cache
def softmax() -> Any:
    @cuda.jit
    def kernel(prob, output_ids, confidence):
        """A block a row of logits: its softmax in place, and the response token's share."""
        part = cuda.shared.array(THREADS, numba.float64)
        j, thread = cuda.blockIdx.x, cuda.threadIdx.x
        top = numba.float64(-math.inf)
        for i in range(thread, prob.shape[1], THREADS):
            top = most(top, numba.float64(prob[j, i]))
        top = block_most(top, part)
        total = numba.float64(0)
        for i in range(thread, prob.shape[1], THREADS):
            total += math.exp(prob[j, i] - top)
        total = block_sum(total, part)
        for i in range(thread, prob.shape[1], THREADS):
            prob[j, i] = math.exp(prob[j, i] - top) / total
        cuda.syncthreads()
        if thread == 0:
            confidence[j] = prob[j, output_ids[j]]

    return kernel


@cache
def towards() -> Any:
    @cuda.jit
    def kernel(d_h, u, output_ids, confidence):
        """d p_y / d h = p_y (u_y - sum_v p_v u_v), the sum standing in d_h."""
        place = cuda.grid(1)
        if place < d_h.size:
            j, e = place // d_h.shape[1], place % d_h.shape[1]
            d_h[j, e] = confidence[j] * (u[output_ids[j], e] - d_h[j, e])

    return kernel


@cache
def means() -> Any:
    @cuda.jit
    def kernel(S, A, c, x, d_h, n, means, first):
        """A block a row: sum_s A c; for the first row what reaches its own token besides."""
        part = cuda.shared.array(THREADS, numba.float64)
        j, thread = cuda.blockIdx.x, cuda.threadIdx.x
        total = numba.float64(0)
        for i in range(thread, S.shape[1], THREADS):
            total += A[j, i] * c[j, i]
        mean = block_sum(total, part)
        if thread == 0:
            means[j] = mean
        if thread == 0 and j == 0:
            own = numba.float64(0)
            for i in range(S.shape[1]):  # as query
                own += A[0, i] * (c[0, i] - mean) * S[0, i]
            for e in range(x.shape[1]):  # in the residual stream
                own += x[n, e] * d_h[0, e]
            first[0] = own

    return kernel


@cache
def importance() -> Any:
    @cuda.jit
    def kernel(S, A, c, means, first, importance):
        """(1): as value and as key; the last prompt token, which predicts y_1, also by `first`."""
        place = cuda.grid(1)
        n, T = importance.shape
        if place < n * T:
            i, j = place // T, place % T
            value = A[j, i + 1] * (c[j, i + 1] + (c[j, i + 1] - means[j]) * S[j, i + 1])
            if j == 0 and i == n - 1:
                value += first[0]
            importance[i, j] = value

    return kernel


@cache
def peaks() -> Any:
    @cuda.jit
    def kernel(importance, peaks):
        """The largest positive importance of each response token: a thread a column."""
        j = cuda.grid(1)
        if j < peaks.size:
            top = importance[0, j] * 0
            for i in range(importance.shape[0]):
                top = most(top, importance[i, j])
            peaks[j] = top

    return kernel


@cache
def levels() -> Any:
    @cuda.jit
    def kernel(importance, peaks, L, eps, levels):
        """(2) before the cut."""
        place = cuda.grid(1)
        if place < levels.size:
            i, j = place // levels.shape[1], place % levels.shape[1]
            positive = most(importance[i, j], importance[i, j] * 0)
            levels[i, j] = least(type(L)(math.ceil(L * positive / (peaks[j] + eps))), L)

    return kernel


@cache
def norms() -> Any:
    @cuda.jit
    def kernel(levels, b, p, eps, a):
        """(3) of the levels above b: a block a prompt token."""
        part = cuda.shared.array(THREADS, numba.float64)
        i, thread = cuda.blockIdx.x, cuda.threadIdx.x
        total, powers = numba.float64(0), numba.float64(0)
        for j in range(thread, levels.shape[1], THREADS):
            l = numba.float64(levels[i, j])
            if l > b:
                total += l
                powers += l * l * l * l if p == 4.0 else l**p
        total, powers = block_sum(total, part), block_sum(powers, part)
        if thread == 0:
            a[i] = total / (powers ** (1 / p) + eps)

    return kernel


@cache
def times() -> Any:
    @cuda.jit
    def kernel(x, gamma, out):
        place = cuda.grid(1)
        if place < out.size:
            r, e = place // out.shape[1], place % out.shape[1]
            out[r, e] = x[r, e] * gamma[e]

    return kernel


@cache
def unit_rows() -> Any:
    @cuda.jit
    def kernel(x, out):
        """Rows of length 1; rows of zeros stay."""
        r = cuda.grid(1)
        if r < x.shape[0]:
            total = x[r, 0] * 0
            for e in range(x.shape[1]):
                total += x[r, e] * x[r, e]
            length = math.sqrt(total) if total > 0 else total + 1
            for e in range(x.shape[1]):
                out[r, e] = x[r, e] / length

    return kernel


@cache
def columns() -> Any:
    @cuda.jit
    def kernel(H, size, words, squares):
        """A thread a column keeps the k largest so far in order; equal ones by their number."""
        c = cuda.grid(1)
        if c >= H.shape[1]:
            return
        k = words.shape[0]
        total = H[0, c] * 0
        for w in range(H.shape[0]):
            total += H[w, c] * H[w, c]
            value = abs(H[w, c])
            place = w if w < k else k
            if place == k and value > size[k - 1, c]:
                place = k - 1
            if place < k:
                while place > 0 and value > size[place - 1, c]:
                    size[place, c], words[place, c] = size[place - 1, c], words[place - 1, c]
                    place -= 1
                size[place, c], words[place, c] = value, w
        squares[c] = total

    return kernel


@cache
def theta() -> Any:
    @cuda.jit
    def kernel(g, first, theta):
        """Mean + 1.96 standard deviations of a word's cosines with the first words: a block a word."""
        part = cuda.shared.array(THREADS, numba.float64)
        w, thread = cuda.blockIdx.x, cuda.threadIdx.x
        mean, spread = numba.float64(0), numba.float64(0)
        for turn in range(2):
            total = numba.float64(0)
            for v in range(thread, first, THREADS):
                cosine = numba.float64(0)
                for e in range(g.shape[1]):
                    cosine += g[w, e] * g[v, e]
                total += cosine if turn == 0 else (cosine - mean) ** 2
            total = block_sum(total, part)
            if turn == 0:
                mean = total / first
            else:
                spread = math.sqrt(total / first)
        if thread == 0:
            theta[w] = mean + 1.96 * spread

    return kernel


@cache
def cosines() -> Any:
    @cuda.jit
    def kernel(Hq, Hk, queries, keys, g, theta, h, group, kept):
        """kept[r, i, j]: the cosine of key word i and query word j of dimension r, 0 if not kept."""
        place = cuda.grid(1)
        if place >= kept.size:
            return
        j = place % kept.shape[2]
        i = place // kept.shape[2] % kept.shape[1]
        r = place // (kept.shape[1] * kept.shape[2])
        t = r // h // group * h + r % h
        key, query = keys[i, t], queries[j, r]
        result = theta[0] * 0
        if key != query and Hk[key, t] * Hq[query, r] > 0:
            low, high = least(key, query), most(key, query)  # (a, b) and (b, a) tie exactly
            cosine = theta[0] * 0
            for e in range(g.shape[1]):
                cosine += g[low, e] * g[high, e]
            if cosine > theta[key] and cosine > theta[query] and cosine > 0:
                result = cosine
        kept[r, i, j] = result

    return kernel
