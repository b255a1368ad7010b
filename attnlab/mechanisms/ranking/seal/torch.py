"""Backward search in PyTorch: all n-grams at once, a wavelet matrix for the rank queries."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from . import EXHIBIT


@EXHIBIT.path
def count_ngrams(
    bwt: Int[Tensor, "N+1"],
    C: Int[Tensor, "sigma+1"],
    ngram_tokens: Int[Tensor, "tokens"],
    ngram_offsets: Int[Tensor, "ngrams+1"],
    rank_words: Int[Tensor, "levels words"] | None = None,
    rank_before: Int[Tensor, "levels words"] | None = None,
    rank_zeros: Int[Tensor, "levels"] | None = None,
    *,
    shift: int = 10,
) -> dict[str, Tensor]:
    """See the reference. Without the rank structure of build_index, it is built here."""
    sigma = len(C) - 1
    if rank_words is None or rank_before is None or rank_zeros is None:
        rank_words, rank_before, rank_zeros = wavelet_matrix(bwt, sigma)
    lengths = ngram_offsets.diff()
    l = torch.zeros_like(lengths)
    r = torch.full_like(lengths, len(bwt))
    for i in range(int(lengths.max()) if len(lengths) else 0):
        at = (ngram_offsets[:-1] + i).clamp(max=len(ngram_tokens) - 1)
        c = ngram_tokens[at] + shift
        known = (c < sigma) & (l < r)
        x = c.clamp(max=sigma - 1)
        ends = torch.stack([torch.zeros_like(l), l, r])  # (3, ngrams): the symbol's begin, l, r
        begin, left, right = descend(x, ends, rank_words, rank_before, rank_zeros)
        reads = i < lengths
        l = torch.where(reads, torch.where(known, C[x] + left - begin, 0), l)
        r = torch.where(reads, torch.where(known, C[x] + right - begin, 0), r)
    ranges = torch.stack([l, r], dim=1)
    ranges = torch.where((l < r)[:, None], ranges, 1)
    return {"ranges": ranges, "counts": ranges[:, 1] - ranges[:, 0]}


def descend(
    x: Int[Tensor, "ngrams"],
    ends: Int[Tensor, "3 ngrams"],
    words: Int[Tensor, "levels words"],
    before: Int[Tensor, "levels words"],
    zeros: Int[Tensor, "levels"],
) -> Int[Tensor, "3 ngrams"]:
    """Follow the bits of x from the top level: where the positions `ends` come to lie."""
    levels = len(zeros)
    for level in range(levels):
        word = ends >> 6
        below = (torch.ones_like(ends) << (ends & 63)) - 1
        ones = before[level][word] + popcount(words[level][word] & below)
        bit = (x >> (levels - 1 - level)) & 1
        ends = torch.where(bit == 1, zeros[level] + ones, ends - ones)
    return ends


def popcount(word: Tensor) -> Tensor:
    """Ones of an int64 whose top bit is 0: sums over pairs, fours, bytes, then all bytes."""
    word = word - ((word >> 1) & 0x5555555555555555)
    word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (word * 0x0101010101010101) >> 56


def wavelet_matrix(bwt: Tensor, sigma: int) -> tuple[Tensor, Tensor, Tensor]:
    """(words, ones before each word, zeros of each level): what build_index returns."""
    levels, words = max(1, (sigma - 1).bit_length()), len(bwt) // 64 + 1
    bits = bwt.new_zeros(levels, words * 64)
    sequence = bwt
    for level in range(levels):
        bits[level, : len(bwt)] = (sequence >> (levels - 1 - level)) & 1
        order = bits[level, : len(bwt)].sort(stable=True).indices
        sequence = sequence[order]
    rows = bits.view(levels, words, 64)
    ones = rows.sum(2)
    place = torch.ones(64, dtype=torch.int64, device=bwt.device) << torch.arange(
        64, device=bwt.device
    )
    return (rows * place).sum(2), ones.cumsum(1) - ones, len(bwt) - ones.sum(1)
