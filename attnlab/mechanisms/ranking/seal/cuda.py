"""Backward search on CUDA: one thread an n-gram, one word and one popcount a bit of a symbol."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS

from . import EXHIBIT


@EXHIBIT.path
def count_ngrams(
    bwt: Any,
    C: Any,
    ngram_tokens: Any,
    ngram_offsets: Any,
    rank_words: Any = None,
    rank_before: Any = None,
    rank_zeros: Any = None,
    *,
    shift: int = 10,
) -> dict[str, Any]:
    """See the reference. Without the rank structure of build_index, it is built on the host."""
    if rank_words is None:
        from .reference import wavelet_matrix

        built = wavelet_matrix(bwt.copy_to_host(), C.shape[0] - 1)
        rank_words, rank_before, rank_zeros = (
            cuda.to_device(np.ascontiguousarray(built[name]))
            for name in ("rank_words", "rank_before", "rank_zeros")
        )
    count = ngram_offsets.shape[0] - 1
    ranges = device.empty((count, 2), np.int64)
    counts = device.empty(count, np.int64)
    _search_kernel()[device.blocks(count), THREADS](
        C, ngram_tokens, ngram_offsets, rank_words, rank_before, rank_zeros, shift, ranges, counts
    )
    return {"ranges": ranges, "counts": counts}


@cache
def _search_kernel() -> Any:
    @cuda.jit(device=True)
    def ones(words, before, level, i):
        """Ones among the first i bits of a level."""
        word = words[level, i >> 6] & ((np.int64(1) << (i & 63)) - 1)
        return before[level, i >> 6] + cuda.popc(word)

    @cuda.jit
    def kernel(C, tokens, offsets, words, before, zeros, shift, ranges, counts):
        g = cuda.grid(1)
        if g >= counts.size:
            return
        levels, sigma = zeros.size, C.size - 1
        l, r = np.int64(0), C[sigma]
        for p in range(offsets[g], offsets[g + 1]):
            x = tokens[p] + shift
            if x >= sigma or l >= r:
                l, r = np.int64(0), np.int64(0)
                break
            begin = np.int64(0)  # where the symbol's own places begin, level by level
            for level in range(levels):
                a = ones(words, before, level, begin)
                b, c = ones(words, before, level, l), ones(words, before, level, r)
                if (x >> (levels - 1 - level)) & 1:
                    begin, l, r = zeros[level] + a, zeros[level] + b, zeros[level] + c
                else:
                    begin, l, r = begin - a, l - b, r - c
            l, r = C[x] + l - begin, C[x] + r - begin
        if l >= r:
            l, r = np.int64(1), np.int64(1)
        ranges[g, 0], ranges[g, 1] = l, r
        counts[g] = r - l

    return kernel
