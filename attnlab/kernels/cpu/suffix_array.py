"""Suffix arrays, the Burrows-Wheeler transform and rank queries over sequences of integers.

    sa = suffix_array(s)                # O(n log n): prefix doubling with counting sorts
    b = bwt(s, sa)
    index = RankIndex.of(b, sigma)      # wavelet matrix (Claude, Navarro and Ordonez 2015)
    c = first_rows(s, sigma)            # C[x] = how many symbols are smaller than x

Inside kernels, `rank(index, x, i)` counts x in b[:i] in one step a bit of the alphabet, independent
of n; `search` narrows a range of rows by one symbol (backward search, Ferragina and Manzini 2000),
and `distinct` lists the symbols of a range.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64, UInt64
from numba import types
from numba.extending import intrinsic

from attnlab.kernels.cpu.runtime import block, contiguous, worker
from attnlab.kernels.cpu.scratch import empty, tile


@worker
def _double(s, sigma, sa, rank):
    """sa <- the order of the suffixes of s, rank <- its inverse; a suffix precedes its extensions."""
    n = s.size
    count = np.zeros(max(sigma, n) + 1, np.int64)
    by_second, new_rank = tile(n, np.int64), tile(n, np.int64)
    for i in range(n):
        count[s[i] + 1] += 1
    for x in range(sigma):
        count[x + 1] += count[x]
    for i in range(n):
        sa[count[s[i]]] = i
        count[s[i]] += 1
    rank[sa[0]] = 0
    for r in range(1, n):
        rank[sa[r]] = rank[sa[r - 1]] + (1 if s[sa[r]] != s[sa[r - 1]] else 0)
    length = 1  # rank orders the suffixes by their first `length` symbols
    while rank[sa[n - 1]] < n - 1:
        # by the second half: those without one first, the others in the order of their second half
        at = 0
        for i in range(max(0, n - length), n):
            by_second[at] = i
            at += 1
        for r in range(n):
            if sa[r] >= length:
                by_second[at] = sa[r] - length
                at += 1
        # then, stably, by the first half
        classes = rank[sa[n - 1]] + 1
        count[: classes + 1] = 0
        for i in range(n):
            count[rank[i] + 1] += 1
        for x in range(classes):
            count[x + 1] += count[x]
        for j in range(n):
            i = by_second[j]
            sa[count[rank[i]]] = i
            count[rank[i]] += 1
        new_rank[sa[0]] = 0
        for r in range(1, n):
            a, b = sa[r - 1], sa[r]
            second_a = rank[a + length] if a + length < n else -1
            second_b = rank[b + length] if b + length < n else -1
            differs = rank[a] != rank[b] or second_a != second_b
            new_rank[b] = new_rank[a] + (1 if differs else 0)
        rank[:] = new_rank
        length *= 2


def suffix_array(s: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The starts of the suffixes of s in lexicographic order; a suffix precedes its extensions.

    Symbols are integers >= 0 (ValueError otherwise); those below the maximum need not all occur.
    """
    s = contiguous(s, np.int64)
    if s.size == 0:
        return np.empty(0, np.int64)
    if s.min() < 0:
        raise ValueError(f"s: symbols are integers from 0, got {s.min()}")
    sigma = int(s.max()) + 1
    if sigma > 4 * s.size + 1024:  # a sparse alphabet: the order of the symbols is all that counts
        s = np.unique(s, return_inverse=True)[1].astype(np.int64)
        sigma = int(s.max()) + 1
    sa, rank_of = empty(s.size, np.int64), empty(s.size, np.int64)
    _double(s, sigma, sa, rank_of)
    return sa


def bwt(s: Int[np.ndarray, " n"], sa: Int64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The symbol before each suffix, in suffix order; before the first symbol stands the last."""
    return s[sa - 1]


def first_rows(s: Int[np.ndarray, " n"], sigma: int) -> Int64[np.ndarray, " sigma+1"]:
    """C[x]: how many symbols of s are smaller than x, 0 <= x <= sigma."""
    return np.concatenate([[0], np.cumsum(np.bincount(s, minlength=sigma))]).astype(np.int64)


class RankIndex(NamedTuple):
    """A wavelet matrix: at each level one bit of every symbol, zeros sorted before ones.

    About 1.5 bits of memory for each bit of the sequence; passes into kernels as it is.
    """

    words: UInt64[np.ndarray, "levels words"]  # the bits, 64 a word
    before: Int64[np.ndarray, "levels words"]  # ones before each word
    zeros: Int64[np.ndarray, " levels"]  # zeros of each level

    @classmethod
    def of(cls, symbols: Int[np.ndarray, " n"], sigma: int) -> RankIndex:
        """The index of symbols in [0, sigma)."""
        levels = max(1, (max(sigma, 1) - 1).bit_length())
        words = symbols.size // 64 + 1
        index = cls(
            np.zeros((levels, words), np.uint64),
            np.zeros((levels, words), np.int64),
            np.zeros(levels, np.int64),
        )
        _fill(np.array(symbols, np.int64), index.words, index.before, index.zeros)
        return index


@intrinsic
def _popcount(typingctx, word):
    if word != types.uint64:
        return None
    return types.int64(word), lambda context, builder, signature, args: builder.ctpop(args[0])


@worker
def _fill(symbols, words, before, zeros):
    """Fill the arrays of a `RankIndex`; symbols is used up."""
    levels = zeros.size
    ones = tile(symbols.size, np.int64)
    for level in range(levels):
        shift = levels - 1 - level
        n_zeros, n_ones = 0, 0
        for i in range(symbols.size):
            x = symbols[i]
            if (x >> shift) & 1:
                words[level, i >> 6] |= np.uint64(1) << np.uint64(i & 63)
                ones[n_ones] = x
                n_ones += 1
            else:
                symbols[n_zeros] = x  # n_zeros <= i: read already
                n_zeros += 1
        symbols[n_zeros:] = ones[:n_ones]
        zeros[level] = n_zeros
        for w in range(1, words.shape[1]):
            before[level, w] = before[level, w - 1] + _popcount(words[level, w - 1])


@block
def _ones(index, level, i):
    """Ones among the first i bits of a level."""
    mask = (np.uint64(1) << np.uint64(i & 63)) - np.uint64(1)
    return index.before[level, i >> 6] + _popcount(index.words[level, i >> 6] & mask)


@block
def rank_range(index, x, l, r):
    """(how many x are in sequence[:l], how many in sequence[:r]), x in [0, sigma)."""
    levels, begin = index.zeros.size, 0
    for level in range(levels):
        begin_ones, l_ones, r_ones = (
            _ones(index, level, begin),
            _ones(index, level, l),
            _ones(index, level, r),
        )
        if (x >> (levels - 1 - level)) & 1:
            zeros = index.zeros[level]
            begin, l, r = zeros + begin_ones, zeros + l_ones, zeros + r_ones
        else:
            begin, l, r = begin - begin_ones, l - l_ones, r - r_ones
    return l - begin, r - begin


@block
def rank(index, x, i):
    """How many x are in sequence[:i]."""
    return rank_range(index, x, i, i)[0]


@block
def search(index, c, x, l, r):
    """The rows [l, r) narrowed to those whose suffix is preceded by x; empty if x does not occur."""
    if x < 0 or x >= c.size - 1 or l >= r:
        return 0, 0
    l, r = rank_range(index, x, l, r)
    return c[x] + l, c[x] + r


@block
def distinct(index, l, r, symbols, counts):
    """The distinct symbols of sequence[l:r], ascending, and how often each occurs.

    Written to the front of symbols and counts, which hold at least min(r - l, sigma) elements;
    returns their number. Time: one step for each of them and bit of the alphabet.
    """
    if l >= r:
        return 0
    size = symbols.size
    starts, next_starts = tile(size, np.int64), tile(size, np.int64)
    ends, next_ends = tile(size, np.int64), tile(size, np.int64)
    next_symbols = tile(size, np.int64)
    starts[0], ends[0], symbols[0] = l, r, 0
    found = 1
    for level in range(index.zeros.size):
        split = 0
        for f in range(found):
            a, b = _ones(index, level, starts[f]), _ones(index, level, ends[f])
            if ends[f] - b > starts[f] - a:
                next_starts[split], next_ends[split] = starts[f] - a, ends[f] - b
                next_symbols[split] = symbols[f] << 1
                split += 1
            if b > a:
                zeros = index.zeros[level]
                next_starts[split], next_ends[split] = zeros + a, zeros + b
                next_symbols[split] = symbols[f] << 1 | 1
                split += 1
        found = split
        for f in range(found):
            starts[f], ends[f], symbols[f] = next_starts[f], next_ends[f], next_symbols[f]
    for f in range(found):
        counts[f] = ends[f] - starts[f]
    return found
