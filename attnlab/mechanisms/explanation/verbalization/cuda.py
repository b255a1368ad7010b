"""Verbalization's search on CUDA: a block for each document, which counts, then writes in order."""

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
from .patterns import bank

METRICS = {"mean": 0, "quantile": 1, "variance": 2}
SIGNS = {None: 0, "+": 1, "-": 2}


@EXHIBIT.path
def search(
    attributions: Any,
    offsets: Any = None,
    *,
    filter_length: int = 5,
    metric: str = "mean",
    value: float = 0.4,
    sgn: str | None = "+",
    behaviour: str = "released",
) -> dict[str, Any]:
    """See the reference."""
    N = attributions.shape[0]
    edges = cuda.to_device(np.array([0, N])) if offsets is None else offsets
    documents = edges.shape[0] - 1
    x, least = device.empty(N, np.float64), device.empty(documents, np.float64)
    _prepare_kernel()[documents, THREADS](
        attributions, edges, METRICS[metric], value, SIGNS[sgn], x, least
    )
    last = int(behaviour == "corrected")
    made: dict[str, Any] = {}
    for kind in ("conv", "span"):
        patterns = bank(kind, filter_length, sgn)
        width, longest = patterns.width, patterns.steps.shape[1]
        if not len(patterns.ones):
            made[f"{kind}_indices"] = device.empty((0, longest), np.int64)
            made[f"{kind}_values"] = device.empty(0, attributions.dtype)
            made[f"{kind}_offsets"] = device.zeros(documents + 1, np.int64)
            continue
        table = tuple(cuda.to_device(array) for array in patterns[1:])
        counts = device.empty(documents, np.int64)
        task = (x, edges, least, width, *table, last)
        _count_kernel()[documents, THREADS](*task, counts)
        begins = np.append(0, np.cumsum(counts.copy_to_host()))  # sizes of what comes back
        indices = device.empty((int(begins[-1]), longest), np.int64)
        values = device.empty(int(begins[-1]), attributions.dtype)
        made[f"{kind}_offsets"] = cuda.to_device(begins)
        if begins[-1]:
            _write_kernel()[documents, THREADS](*task, made[f"{kind}_offsets"], indices, values)
        made[f"{kind}_indices"], made[f"{kind}_values"] = indices, values
    return made


@cache
def _prepare_kernel() -> Any:
    @cuda.jit
    def kernel(a, edges, metric, value, sign, x, least):
        """x <- (1), -inf at forbidden signs; least <- (2)."""
        scratch = cuda.shared.array(THREADS, numba.float64)
        d, thread = cuda.blockIdx.x, cuda.threadIdx.x
        start, stop = edges[d], edges[d + 1]
        n = stop - start
        largest = -math.inf
        for i in range(start + thread, stop, THREADS):
            if a[i] > largest:
                largest = numba.float64(a[i])
        scale = abs(block_most(largest, scratch))
        for i in range(start + thread, stop, THREADS):
            x[i] = numba.float64(numba.float32(numba.float64(a[i]) / scale))
        # Each thread reads below only what it has written itself.
        if metric == 0:
            # (2) halves the range of values until it holds but one: the smallest of the top ones.
            count = numba.int64(n * value)
            taken = count if count < n else n
            smallest = math.inf
            for i in range(start + thread, stop, THREADS):
                if x[i] < smallest:
                    smallest = x[i]
            low, high = block_least(smallest, scratch), 2.0  # the largest is 1 or -1
            middle = (low + high) / 2
            while low < middle and middle < high:
                reach = 0.0
                for i in range(start + thread, stop, THREADS):
                    if x[i] >= middle:
                        reach += 1.0
                if block_sum(reach, scratch) >= taken:
                    low = middle
                else:
                    high = middle
                middle = (low + high) / 2
            total, above = 0.0, 0.0
            for i in range(start + thread, stop, THREADS):
                if x[i] > low:
                    total += x[i]
                    above += 1.0
            total, above = block_sum(total, scratch), block_sum(above, scratch)
            bound = (total + (taken - above) * low) / count
        else:
            total = 0.0
            for i in range(start + thread, stop, THREADS):
                total += x[i]
            mean = block_sum(total, scratch) / n
            squares = 0.0
            for i in range(start + thread, stop, THREADS):
                squares += (x[i] - mean) * (x[i] - mean)
            variance = block_sum(squares, scratch) / n
            bound = value * (variance if metric == 2 else math.sqrt(variance))
        if thread == 0:
            least[d] = bound
        for i in range(start + thread, stop, THREADS):
            if (sign == 1 and x[i] < 0) or (sign == 2 and x[i] >= 0):
                x[i] = -math.inf

    return kernel


@cuda.jit(device=True)
def _hits(x, start, n, i, bound, width, steps, ones, low, tail, last, p):
    """Whether pattern p at token i is a hit, and its mean."""
    if i < low[p] or i + tail[p] > n - 1 + last or n + last <= width:
        return False, 0.0
    total = 0.0
    for k in range(ones[p]):
        total += x[start + i + steps[p, k]]
    mean = total / ones[p]
    return mean > bound, mean


@cache
def _count_kernel() -> Any:
    @cuda.jit
    def kernel(x, edges, least, width, steps, ones, low, tail, last, counts):
        scratch = cuda.shared.array(THREADS, numba.int64)
        d, thread = cuda.blockIdx.x, cuda.threadIdx.x
        start, n = edges[d], edges[d + 1] - edges[d]
        found = numba.int64(0)
        for i in range(thread, n, THREADS):
            for p in range(ones.size):
                hit, _ = _hits(x, start, n, i, least[d], width, steps, ones, low, tail, last, p)
                if hit:
                    found += 1
        found = block_sum(found, scratch)
        if thread == 0:
            counts[d] = found

    return kernel


@cache
def _write_kernel() -> Any:
    @cuda.jit
    def kernel(x, edges, least, width, steps, ones, low, tail, last, begins, indices, values):
        """Tokens from last to first, THREADS at a time; a running sum tells each its place."""
        sums = cuda.shared.array(THREADS, numba.int64)
        d, thread = cuda.blockIdx.x, cuda.threadIdx.x
        start, n, bound = edges[d], edges[d + 1] - edges[d], least[d]
        base = begins[d]
        for chunk in range(0, n, THREADS):
            i = n - 1 - chunk - thread
            found = numba.int64(0)
            if i >= 0:
                for p in range(ones.size):
                    hit, _ = _hits(x, start, n, i, bound, width, steps, ones, low, tail, last, p)
                    if hit:
                        found += 1
            sums[thread] = found
            cuda.syncthreads()
            step = 1
            while step < THREADS:
                before = sums[thread - step] if thread >= step else 0
                cuda.syncthreads()
                sums[thread] += before
                cuda.syncthreads()
                step *= 2
            place = base + sums[thread] - found
            base += sums[THREADS - 1]
            cuda.syncthreads()
            if found > 0:
                for p in range(ones.size):
                    hit, mean = _hits(x, start, n, i, bound, width, steps, ones, low, tail, last, p)
                    if hit:
                        for k in range(steps.shape[1]):
                            indices[place, k] = i + steps[p, k] if k < ones[p] else -1
                        values[place] = mean
                        place += 1

    return kernel
