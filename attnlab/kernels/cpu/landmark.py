"""The two-level online softmax: tokens of closed blocks are reached through the block's last key.

A row of scores falls into blocks, each closed by its landmark. For a query behind the landmark the
block weighs p(landmark) * softmax(scores inside); in the query's own block every key counts for
itself, and the landmark (which can only be the query) not at all. Inside the tile both levels
become plain weights relative to one running maximum, so that what follows is an ordinary product
with the values, in memory linear in n.
"""

import numpy as np

from attnlab.kernels.cpu.exp import exp_nonpositive
from attnlab.kernels.cpu.runtime import block
from attnlab.kernels.cpu.scratch import packed
from attnlab.kernels.cpu.softmax import exp_minus, row_max

NEVER = 2**40  # the landmark of a block that is still open


@block
def weigh_blocks(s, i0, j0, ends, first, m, l, acc):
    """s <- weights relative to the new m; m, l and acc follow, as in `softmax.weigh`.

    s (Br, Bc): scores of queries i0 .. and keys j0 ..; a query sees no key behind itself. ends:
    positions of the landmarks, ascending, then NEVER. first: number of the
    block that holds key j0, which is its first key or follows only keys of the same open block.
    """
    j1 = j0 + s.shape[1]
    for r in range(s.shape[0]):
        row, i = packed(s[r]), i0 + r
        old = m[r]
        new = old
        begin, number = j0, first
        while begin < j1 and begin <= i:
            end = ends[number]
            if end < i:  # a past block: its landmark competes
                new = max(new, row[end - j0])
            else:  # the own block: its tokens compete
                new = max(new, row_max(row[begin - j0 : min(i + 1, end, j1) - j0]))
            begin, number = end + 1, number + 1
        if new == -np.inf:
            for j in range(row.size):
                row[j] = 0
            continue
        if new != old:
            shrink = exp_nonpositive(old - new)  # 0 on the first tile
            m[r] = new
            l[r] *= shrink
            accumulated = acc[r]
            for d in range(accumulated.size):
                accumulated[d] *= shrink
        total = row.dtype.type(0)
        begin, number = j0, first
        while begin < j1 and begin <= i:
            end = ends[number]
            if end < i:
                share = exp_nonpositive(row[end - j0] - new)
                total += share
                inside = row[begin - j0 : end - j0]
                if inside.size > 0:
                    share /= exp_minus(inside, row_max(inside))
                    for j in range(inside.size):
                        inside[j] *= share
                row[end - j0] = 0
                begin = end + 1
            else:
                stop = min(i + 1, end, j1)
                total += exp_minus(row[begin - j0 : stop - j0], new)
                begin = stop
                break
            number += 1
        l[r] += total
        for j in range(begin - j0, row.size):
            row[j] = 0
