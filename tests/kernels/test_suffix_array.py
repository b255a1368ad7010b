"""Suffix array and rank queries against sorting and counting in Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.kernels.cpu import suffix_array as sa

sequences = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(sequences)
def test_suffixes_are_in_order(symbols):
    s = np.array(symbols)
    want = sorted(range(len(s)), key=lambda i: symbols[i:])
    np.testing.assert_array_equal(sa.suffix_array(s), want)


@pytest.mark.parametrize("n", [63, 64, 500])
def test_long_repeats_and_large_symbols(n):
    for s in (np.zeros(n, int), np.tile([10**9, 3], n), np.arange(n)[::-1]):
        symbols = s.tolist()
        want = sorted(range(len(s)), key=lambda i: symbols[i:])
        np.testing.assert_array_equal(sa.suffix_array(s), want)


def test_negative_symbols_are_refused():
    with pytest.raises(ValueError, match="symbols"):
        sa.suffix_array(np.array([1, -1]))


@pytest.mark.parametrize(("n", "sigma"), [(1, 1), (63, 2), (64, 7), (500, 300)])
def test_rank_and_distinct(n, sigma, rng):
    s = rng.integers(0, sigma, n)
    index = sa.RankIndex.of(s, sigma)
    symbols, counts = np.empty(sigma, np.int64), np.empty(sigma, np.int64)
    for _ in range(30):
        l, r = sorted(rng.integers(0, n + 1, 2))
        x = rng.integers(0, sigma)
        assert sa.rank_range(index, x, l, r) == ((s[:l] == x).sum(), (s[:r] == x).sum())
        assert sa.rank(index, x, r) == (s[:r] == x).sum()
        found = sa.distinct(index, l, r, symbols, counts)
        want, want_counts = np.unique(s[l:r], return_counts=True)
        np.testing.assert_array_equal(symbols[:found], want)
        np.testing.assert_array_equal(counts[:found], want_counts)


def test_backward_search_counts_occurrences(rng):
    s = np.append(rng.integers(1, 4, 300), 0)  # a terminal smaller than all
    order = sa.suffix_array(s)
    index, c = sa.RankIndex.of(sa.bwt(s, order), 4), sa.first_rows(s, 4)
    for length in (1, 2, 4, 6):
        pattern = rng.integers(1, 4, length)
        l, r = 0, s.size
        for x in pattern[::-1]:
            l, r = sa.search(index, c, x, l, r)
        windows = np.lib.stride_tricks.sliding_window_view(s, length)
        places = np.flatnonzero((windows == pattern).all(axis=1))
        np.testing.assert_array_equal(np.sort(order[l:r]), places)
    assert sa.search(index, c, 9, 0, s.size) == (0, 0)
