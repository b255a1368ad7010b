"""Softmax over a row, over a row seen tile by tile, and over groups of rows.

The tiled form (online softmax; Milakov and Gimelshein 2018, Dao et al. 2022) keeps for each query
the running maximum m, the running sum l of exp(s - m) and the unnormalised output acc, so that no
n x n array exists. Masked scores are -inf; a row with nothing visible gives 0, never NaN. NaN in
the scores reaches the output.
"""

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.exp import exp_nonpositive
from attnlab.kernels.cpu.runtime import block
from attnlab.kernels.cpu.scratch import packed


@intrinsic
def _larger(typingctx, a, b):
    """max(a, b) that may ignore NaN: only then is a row's maximum a vector instruction.

    A NaN score still reaches the output, through exp(s - m).
    """

    def codegen(context, builder, signature, args):
        number = args[0].type
        kind = ir.FunctionType(number, [number, number])
        maxnum = builder.module.declare_intrinsic("llvm.maxnum", [number], kind)
        return builder.call(maxnum, args, fastmath=("nnan", "nsz"))

    return a(a, a), codegen


@block
def row_max(row):
    """The largest element of a 1-D row; -inf for an empty one."""
    largest = row.dtype.type(-np.inf)
    for j in range(row.size):
        largest = _larger(largest, row[j])
    return largest


@block
def exp_minus(row, shift):
    """row <- exp(row - shift) in place, shift >= the row; returns the sum of the new row."""
    total = row.dtype.type(0)
    for j in range(row.size):
        e = exp_nonpositive(row[j] - shift)
        row[j] = e
        total += e
    return total


@block
def start(m, l, acc):
    """Before the first tile: m = -inf, l = 0, acc = 0."""
    m[:] = -np.inf
    l[:] = 0
    acc[:] = 0


@block
def weigh(s, m, l, acc):
    """The softmax half of `update`: s (Br, Bc) <- exp(s - new m); m, l and acc follow."""
    for i in range(s.shape[0]):
        row = packed(s[i])
        old = m[i]
        new = max(old, row_max(row))
        if new == -np.inf:  # nothing visible yet, and s - m would be inf - inf; NaN stays NaN
            l[i] += exp_minus(row, row.dtype.type(0))
            continue
        l_tile = exp_minus(row, new)
        if new != old:
            shrink = exp_nonpositive(old - new)  # 0 on the first tile
            m[i] = new
            l[i] = l[i] * shrink + l_tile
            accumulated = packed(acc[i])
            for d in range(accumulated.size):
                accumulated[d] *= shrink
        else:
            l[i] += l_tile


@block
def update(s, m, l, acc, v, accumulate):
    """Take one tile of scores and values into the running softmax, in place.

    s (Br, Bc): scores, scaled, -inf where masked; becomes exp(s - m). m, l (Br,), acc (Br, Dv): see
    `start`. v (Bc, Dv). accumulate: `blas.scalars(1, 1, dtype)`. Rows of any stride.
    """
    weigh(s, m, l, acc)
    gemm_nn(accumulate, s, v, acc)


@block
def finish(m, l, acc, lse):
    """After the last tile: acc <- acc / l (rows with l = 0 become 0), lse <- m + log l (-inf)."""
    for i in range(l.size):
        total = l[i]
        accumulated = acc[i]
        if total == 0:
            accumulated[:] = 0
            lse[i] = -np.inf
            continue
        inverse = acc.dtype.type(1) / total
        for d in range(accumulated.size):
            accumulated[d] *= inverse
        lse[i] = m[i] + np.log(total)


@block
def softmax_row(row):
    """row <- softmax(row), 1-D, in place, -inf where masked; returns log-sum-exp.

    Nothing visible: the row becomes 0 and the result is -inf.
    """
    largest = row_max(row)
    total = exp_minus(row, largest if largest > -np.inf else row.dtype.type(0))
    if total == 0:
        return largest
    inverse = row.dtype.type(1) / total
    for j in range(row.size):
        row[j] *= inverse
    return largest + np.log(total)


@block
def softmax_rows(s):
    """s <- softmax of each row, 2-D, in place, -inf where masked; rows with nothing visible: 0."""
    for i in range(s.shape[0]):
        softmax_row(packed(s[i]))


@block
def segment_softmax(s, group, groups):
    """s <- softmax down each column within each group of rows, in place.

    s (rows, columns); group (rows,) int: the group of each row, 0 <= group < groups, in any order.
    Groups may be empty. Elements of -inf become 0, also where a whole group is -inf. Returns the
    log-sum-exp (groups, columns), -inf where there is nothing.
    """
    rows, columns = s.shape
    largest = np.full((groups, columns), -np.inf, s.dtype)
    total = np.zeros((groups, columns), s.dtype)
    for i in range(rows):
        g = group[i]
        for j in range(columns):
            largest[g, j] = max(largest[g, j], s[i, j])
    for i in range(rows):
        g = group[i]
        for j in range(columns):
            m = largest[g, j]
            e = exp_nonpositive(s[i, j] - (m if m > -np.inf else s.dtype.type(0)))
            s[i, j] = e
            total[g, j] += e
    for i in range(rows):
        g = group[i]
        for j in range(columns):
            s[i, j] = s[i, j] / total[g, j] if total[g, j] != 0 else s[i, j]
    for g in range(groups):
        for j in range(columns):
            largest[g, j] += np.log(total[g, j]) if total[g, j] != 0 else s.dtype.type(0)
    return largest
