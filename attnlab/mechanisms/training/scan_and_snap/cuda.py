"""Scan and snap on CUDA: one block a sequence counts its tokens; the decoder is one product."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.matmul import matmul
from attnlab.kernels.cuda.tiles import ONE, ZERO

from . import EXHIBIT


@EXHIBIT.path
def loss(
    x: Any,
    label: Any,
    K1: Any,
    K2: Any,
    *,
    normalize: bool = True,
    attn_include_base_token: bool = False,
    residual: bool = False,
) -> dict[str, Any]:
    """See the reference."""
    batch, length = x.shape
    M = K1.shape[0]
    u = device.zeros((batch, M), K1.dtype)
    keys = length if attn_include_base_token else length - 1
    _mix_kernel()[batch, THREADS](x, K2, keys, normalize, residual, u)
    logits = matmul(u.reshape(1, batch, M), K1.reshape(1, M, M), transposed=True)
    each, mean = device.empty(batch, K1.dtype), device.empty((), K1.dtype)
    _loss_kernel()[device.blocks(batch), THREADS](logits, label, each)
    _mean_kernel()[1, 1](each, mean)
    return {"loss": mean}


@cache
def _mix_kernel() -> Any:
    @cuda.jit
    def kernel(x, K2, keys, normalize, residual, u):
        """(1), (2): counts by atomic addition, then the mass h_l exp(z_l) of each token."""
        i, thread = cuda.blockIdx.x, cuda.threadIdx.x
        row = u[i]
        m = x[i, x.shape[1] - 1]
        for p in range(thread, keys, THREADS):
            cuda.atomic.add(row, x[i, p], 1)
        cuda.syncthreads()
        if thread == 0:  # M numbers: one thread is enough, and its sum has a fixed order
            largest = K2[m, x[i, 0]]
            for l in range(row.size):
                if row[l] > 0 and K2[m, l] > largest:
                    largest = K2[m, l]
            total = ZERO
            for l in range(row.size):
                if row[l] > 0:
                    row[l] *= math.exp(K2[m, l] - largest)
                    total += row[l]
            squares = ZERO
            for l in range(row.size):
                row[l] /= total
                if residual and l == m:
                    row[l] += ONE
                squares += row[l] * row[l]
            if normalize:
                norm = math.sqrt(squares)
                for l in range(row.size):
                    row[l] /= norm

    return kernel


@cache
def _loss_kernel() -> Any:
    @cuda.jit
    def kernel(logits, label, each):
        """(3): one thread a sample."""
        i = cuda.grid(1)
        if i >= each.size:
            return
        row = logits[0, i]
        largest = row[0]
        for l in range(1, row.size):
            if row[l] > largest:
                largest = row[l]
        total = ZERO
        for l in range(row.size):
            total += math.exp(row[l] - largest)
        each[i] = largest + math.log(total) - row[label[i]]

    return kernel


@cache
def _mean_kernel() -> Any:
    @cuda.jit
    def kernel(each, mean):
        total = each[0]
        for i in range(1, each.size):
            total += each[i]
        mean[()] = total / each.size

    return kernel
