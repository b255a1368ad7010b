"""What the CUDA path of the autoencoder circuits launches; a kernel is made when it is first asked for."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import SHARED_BYTES, THREADS
from attnlab.kernels.cuda.reduce import block_sum
from attnlab.kernels.cuda.tiles import ZERO

# of each of the two bitsets of a block, beside 16 bytes a thread
WORDS = 64 if device.simulated() else (SHARED_BYTES - 16 * THREADS) // 8


@cache
def assign() -> Any:
    @cuda.jit
    def kernel(source, out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = source[i]

    return kernel


@cache
def add() -> Any:
    @cuda.jit
    def kernel(a, b, out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            r, c = i // out.shape[1], i % out.shape[1]
            out[r, c] = a[r, c] + b[r, c]

    return kernel


@cache
def gather() -> Any:
    @cuda.jit
    def kernel(x, permutation, n, out):
        """out: the n rows of each of the first examples of the permutation."""
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            r, c = i // out.shape[1], i % out.shape[1]
            out[r, c] = x[permutation[r // n] * n + r % n, c]

    return kernel


@cache
def transpose() -> Any:
    @cuda.jit
    def kernel(w, out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            r, c = i // out.shape[1], i % out.shape[1]
            out[r, c] = w[c, r]

    return kernel


@cache
def unit() -> Any:
    @cuda.jit
    def kernel(w, by_columns):
        """(3): a thread a vector; zeros stay."""
        vectors = w.shape[1] if by_columns else w.shape[0]
        length = w.shape[0] if by_columns else w.shape[1]
        for i in range(cuda.grid(1), vectors, cuda.gridsize(1)):
            total = ZERO
            for j in range(length):
                value = w[j, i] if by_columns else w[i, j]
                total += value * value
            if total > 0:
                root = math.sqrt(total)
                for j in range(length):
                    if by_columns:
                        w[j, i] /= root
                    else:
                        w[i, j] /= root

    return kernel


@cache
def encode() -> Any:
    @cuda.jit
    def kernel(x, W_et, b_e, t, a):
        """(1)"""
        for i in range(cuda.grid(1), a.size, cuda.gridsize(1)):
            r, f = i // a.shape[1], i % a.shape[1]
            total = b_e[f]
            for c in range(x.shape[1]):
                total += (x[r, c] - t[c]) * W_et[c, f]
            a[r, f] = total if total > 0 else ZERO

    return kernel


@cache
def residual() -> Any:
    @cuda.jit
    def kernel(x, a, W_dt, t, error):
        """xhat - x"""
        for i in range(cuda.grid(1), error.size, cuda.gridsize(1)):
            r, c = i // error.shape[1], i % error.shape[1]
            total = t[c] - x[r, c]
            for f in range(a.shape[1]):
                total += a[r, f] * W_dt[f, c]
            error[r, c] = total

    return kernel


@cache
def sums() -> Any:
    @cuda.jit
    def kernel(error, a, out):
        """One block: squares of the errors, activations; added up in a fixed order."""
        part = cuda.shared.array(THREADS, numba.float64)
        thread = cuda.threadIdx.x
        squares, ones = numba.float64(0), numba.float64(0)
        for i in range(thread, error.size, THREADS):
            e = error[i // error.shape[1], i % error.shape[1]]
            squares += e * e
        for i in range(thread, a.size, THREADS):
            ones += a[i // a.shape[1], i % a.shape[1]]
        squares, ones = block_sum(squares, part), block_sum(ones, part)
        if thread == 0:
            out[0], out[1] = squares, ones

    return kernel


@cache
def backward() -> Any:
    @cuda.jit
    def kernel(error, a, W_d, scale, penalty, d_a):
        """d loss / d a, 0 where the feature is off."""
        for i in range(cuda.grid(1), a.size, cuda.gridsize(1)):
            r, f = i // a.shape[1], i % a.shape[1]
            total = ZERO
            if a[r, f] > 0:
                for c in range(error.shape[1]):
                    total += error[r, c] * W_d[c, f]
                total = scale * total + penalty
            d_a[r, f] = total

    return kernel


@cache
def outer() -> Any:
    @cuda.jit
    def kernel(left, right, t, scale, centred, out):
        """out = scale left^T right (or right - t), summed over the rows."""
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            p, c = i // out.shape[1], i % out.shape[1]
            shift = t[c] if centred else ZERO
            total = ZERO
            for r in range(left.shape[0]):
                total += left[r, p] * (right[r, c] - shift)
            out[p, c] = scale * total

    return kernel


@cache
def column_sums() -> Any:
    @cuda.jit
    def kernel(x, scale, out):
        for c in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            total = ZERO
            for r in range(x.shape[0]):
                total += x[r, c]
            out[c] = scale * total

    return kernel


@cache
def tied() -> Any:
    @cuda.jit
    def kernel(W_e, g_be, g_t):
        """The tied bias stands in x - t too."""
        for c in range(cuda.grid(1), g_t.size, cuda.gridsize(1)):
            total = g_t[c]
            for f in range(g_be.size):
                total -= W_e[f, c] * g_be[f]
            g_t[c] = total

    return kernel


@cache
def project() -> Any:
    @cuda.jit
    def kernel(w, g, by_columns):
        """(3): the gradient without its part along w; a thread a vector."""
        vectors = w.shape[1] if by_columns else w.shape[0]
        length = w.shape[0] if by_columns else w.shape[1]
        for i in range(cuda.grid(1), vectors, cuda.gridsize(1)):
            along = ZERO
            for j in range(length):
                along += w[j, i] * g[j, i] if by_columns else w[i, j] * g[i, j]
            for j in range(length):
                if by_columns:
                    g[j, i] -= along * w[j, i]
                else:
                    g[i, j] -= along * w[i, j]

    return kernel


@cache
def adam() -> Any:
    @cuda.jit
    def kernel(w, g, moments, rate, correction):
        for i in range(cuda.grid(1), w.size, cuda.gridsize(1)):
            m = 0.9 * moments[0, i] + 0.1 * g[i]
            v = 0.999 * moments[1, i] + 0.001 * g[i] * g[i]
            moments[0, i], moments[1, i] = m, v
            w[i] -= rate * m / (math.sqrt(v * correction) + 1e-8)

    return kernel


@cache
def code() -> Any:
    @cuda.jit
    def kernel(a, codes, margins):
        """(4): a thread a row."""
        for r in range(cuda.grid(1), codes.size, cuda.gridsize(1)):
            best, second, code = a[r, 0], a.dtype.type(-math.inf), 0
            for f in range(1, a.shape[1]):
                value = a[r, f]
                if value > best:
                    second, best, code = best, value, f
                elif value > second:
                    second = value
            codes[r], margins[r] = code, best - second

    return kernel


@cache
def pairs() -> Any:
    @cuda.jit
    def kernel(ranks, F, U, total):
        """(7) of the pair of heads g < h of this block; as many codes of g at a time as have room."""
        pos = cuda.shared.array(WORDS, numba.uint32)
        neg = cuda.shared.array(WORDS, numba.uint32)
        only = cuda.shared.array(THREADS, numba.int64)
        both = cuda.shared.array(THREADS, numba.int64)
        thread = cuda.threadIdx.x
        n, N = ranks.shape
        g, rest = 0, cuda.blockIdx.x
        while rest >= n - 1 - g:
            rest -= n - 1 - g
            g += 1
        h = g + 1 + rest
        unique, pairs = 0, 0
        step = 32 * WORDS // F
        for low in range(0, F, step):
            for i in range(thread, WORDS, THREADS):
                pos[i], neg[i] = 0, 0
            cuda.syncthreads()
            for e in range(thread, N, THREADS):
                place = ranks[g, e] - low
                if place >= 0 and place < step:
                    bit = place * F + ranks[h, e]
                    flag = numba.uint32(1) << numba.uint32(bit % 32)
                    if e < N // 2:
                        cuda.atomic.or_(pos, bit // 32, flag)
                    else:
                        cuda.atomic.or_(neg, bit // 32, flag)
            cuda.syncthreads()
            for i in range(thread, WORDS, THREADS):
                unique += cuda.popc(pos[i] & ~neg[i])
                pairs += cuda.popc(pos[i]) + cuda.popc(neg[i])
            cuda.syncthreads()
        only[thread], both[thread] = unique, pairs
        cuda.syncthreads()
        if thread == 0:
            for j in range(1, THREADS):
                unique += only[j]
                pairs += both[j]
            U[g, h], U[h, g] = unique, unique
            total[g, h], total[h, g] = pairs, pairs

    return kernel
