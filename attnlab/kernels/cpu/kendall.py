"""Kendall's tau-b of many pairs of vectors at once, ties exact.

With C concordant and D discordant pairs of positions, and U_x pairs whose values differ in x,
tau = (C - D) / sqrt(U_a U_b). All counts are integers, so the result is exact up to one division.
Short vectors are compared position by position, which the compiler turns into vector instructions;
long ones are sorted and their inversions counted while merging (Knight, "A Computer Method for
Calculating Kendall's Tau with Ungrouped Data", JASA 1966).
"""

import math

import numpy as np
from jaxtyping import Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.runtime import (
    block,
    contiguous,
    fetch_add,
    run_workers,
    threads,
    worker,
)

SHORT = 768  # up to this length n^2 comparisons are faster than sorting (measured)
GROUP = 64  # rows a worker takes at a time


@block
def _tau(balance, differ_a, differ_b):
    """C - D and the pairs that differ -> tau; NaN where a vector is constant."""
    if differ_a == 0 or differ_b == 0:
        return math.nan
    return balance / math.sqrt(float(differ_a) * float(differ_b))


@block(fastmath=False)
def tau_short(a, b):
    """tau-b by comparing all pairs of positions, O(n^2)."""
    n = a.size
    balance, differ_a, differ_b = 0, 0, 0
    for i in range(1, n):
        x, y = a[i], b[i]
        signs, in_a, in_b = 0, 0, 0
        for j in range(i):
            up, down = a[j] < x, a[j] > x
            over, under = b[j] < y, b[j] > y
            signs += (up - down) * (over - under)
            in_a += up + down
            in_b += over + under
        balance += signs
        differ_a += in_a
        differ_b += in_b
    return _tau(balance, differ_a, differ_b)


@block(fastmath=False)
def merge_argsort(first, then, order, spare):
    """Sort the indices in `order` by (first, then), stably; the number of exchanges of neighbours.

    Returns (sorted, inversions), `sorted` being order or spare: they are swapped at every width.
    An inversion is a pair that stood in strictly falling order. O(n log n).
    """
    n = order.size
    inversions = 0
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = min(low + width, n), min(low + 2 * width, n)
            left, right = low, middle
            for place in range(low, high):
                take_right = left == middle
                if left < middle and right < high:
                    l, r = order[left], order[right]
                    take_right = first[r] < first[l] or (first[r] == first[l] and then[r] < then[l])
                if take_right:
                    spare[place] = order[right]
                    right += 1
                    inversions += middle - left
                else:
                    spare[place] = order[left]
                    left += 1
        order, spare = spare, order
        width *= 2
    return order, inversions


@block(fastmath=False)
def tied_pairs(x, y, order):
    """Pairs of positions equal in x and in y, where `order` puts equal ones side by side."""
    tied, run = 0, 0
    for i in range(1, order.size):
        here, before = order[i], order[i - 1]
        run = run + 1 if x[here] == x[before] and y[here] == y[before] else 0
        tied += run
    return tied


@block(fastmath=False)
def tau_long(a, b, order, spare):
    """tau-b by sorting and counting inversions, O(n log n); order, spare: int64 workspaces (n,)."""
    n = a.size
    for i in range(n):
        order[i] = i
    by_a, _ = merge_argsort(a, b, order, spare)
    tied_a, tied_both = tied_pairs(a, a, by_a), tied_pairs(a, b, by_a)
    by_b, discordant = merge_argsort(b, b, by_a, spare if by_a is order else order)
    tied_b = tied_pairs(b, b, by_b)
    pairs = n * (n - 1) // 2
    balance = pairs - tied_a - tied_b + tied_both - 2 * discordant
    return _tau(balance, pairs - tied_a, pairs - tied_b)


@block(fastmath=False)
def holds_nan(x):
    """Whether any element is NaN."""
    found = 0
    for i in range(x.size):
        found += x[i] != x[i]
    return found > 0


@worker
def tau_rows(a, b, taus, short, counter):
    """One worker's share of the rows: taus[i] <- tau-b of a[i] and b[i]."""
    rows, n = a.shape
    order, spare = scratch.tile(n, np.int64), scratch.tile(n, np.int64)
    while True:
        begin = fetch_add(counter, GROUP)
        if begin >= rows:
            break
        for i in range(begin, min(begin + GROUP, rows)):
            if holds_nan(a[i]) or holds_nan(b[i]):
                taus[i] = math.nan
            elif n <= short:
                taus[i] = tau_short(a[i], b[i])
            else:
                taus[i] = tau_long(a[i], b[i], order, spare)


def kendall_tau(
    a: Float[np.ndarray, "pairs n"], b: Float[np.ndarray, "pairs n"], *, short: int = SHORT
) -> Float[np.ndarray, "pairs"]:
    """Kendall's tau-b of a[i] and b[i] for every i, float64 in [-1, 1].

    NaN where a vector is constant (tau is undefined) or holds NaN. Vectors of up to `short`
    elements are compared pair by pair, longer ones sorted; both are exact. float32 is compared as
    float32, everything else as float64. Raises ValueError for other shapes and for n < 2.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"a and b must both have shape (pairs, n), but have {a.shape}, {b.shape}")
    pairs, n = a.shape
    if n < 2:
        raise ValueError(f"tau needs vectors of at least 2 elements, but n is {n}")
    dtype = np.float32 if a.dtype == b.dtype == np.float32 else np.float64
    taus = scratch.empty(pairs, np.float64)
    run_workers(
        tau_rows,
        *(contiguous(a, dtype), contiguous(b, dtype), taus, short, np.zeros(1, np.int64)),
        workers=threads() if pairs * n * min(n, short) > 2**20 else 1,
    )
    return taus
