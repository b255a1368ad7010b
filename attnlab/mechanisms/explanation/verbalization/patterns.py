"""The filters of both searches without their shifts.

A snippet found by the filter 01101 at t is found by 11010 at t + 1 too. Without leading and trailing
zeros the two are one pattern, 1101, which begins at the snippet's first token: so every snippet is
met once, and with patterns in falling order snippets come out in falling order, without a sort.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Bank(NamedTuple):
    """Pattern p covers tokens i + steps[p, :ones[p]] for low[p] <= i and i + tail[p] < n (released;
    corrected: <= n); width is that of the filters, and a text must be longer (corrected: as long).
    """

    width: int
    steps: Int[np.ndarray, "patterns longest"]
    ones: Int[np.ndarray, "patterns"]
    low: Int[np.ndarray, "patterns"]
    tail: Int[np.ndarray, "patterns"]


@cache
def bank(kind: str, L: int, sgn: str | None) -> Bank:
    """The patterns of (3), kind "conv" or "span"; with sgn "-" those of filters without a 0."""
    if kind == "conv":
        width, longest = L, L - 2
        inner = [J for k in range(2, L - 1) for J in combinations(range(L), k) if J[0] == 0]
        rows = [] if sgn == "-" else [(J, 0, J[-1] + 1) for J in inner]
    else:
        width = longest = L if L % 2 else L - 1
        shifts = [(i, (width - i) // 2) for i in range(3, width + 1, 2)]
        rows = [(tuple(range(i)), s, width - s) for i, s in shifts if s == 0 or sgn != "-"]
    rows.sort(reverse=True)
    steps = np.zeros((len(rows), longest), np.int64)
    for row, (J, _, _) in zip(steps, rows):
        row[: len(J)] = J
    ones, low, tail = (
        np.array(column, np.int64)
        for column in ([len(J) for J, _, _ in rows], [r[1] for r in rows], [r[2] for r in rows])
    )
    return Bank(width, steps, ones, low, tail)
