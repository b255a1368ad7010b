"""The exact Euclidean distance transform, O(pixels): Felzenszwalb and Huttenlocher (2012).

First the distance along each column, then along each row the lower envelope of the parabolas that
stand over its pixels.
"""

import numpy as np
from jaxtyping import Bool, Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.runtime import block, kernel


@block
def along_columns(marked, out):
    """out <- squared distance to the nearest marked pixel of the same column; inf without one."""
    rows, columns = marked.shape
    far = float(rows)
    for x in range(columns):
        out[0, x] = 0.0 if marked[0, x] else far
    for y in range(1, rows):
        for x in range(columns):
            out[y, x] = 0.0 if marked[y, x] else out[y - 1, x] + 1
    for y in range(rows - 2, -1, -1):
        for x in range(columns):
            out[y, x] = min(out[y, x], out[y + 1, x] + 1)
    for y in range(rows):
        for x in range(columns):
            out[y, x] = np.inf if out[y, x] >= far else out[y, x] * out[y, x]


@block(fastmath=False)
def lower_envelope(heights, roots, borders, out):
    """out[x] <- min over x' of heights[x'] + (x - x')^2; at least one height is finite.

    roots holds the parabolas of the envelope, borders where each takes over.
    """
    n, top = heights.size, -1
    for x in range(n):
        if heights[x] == np.inf:
            continue
        border = -np.inf
        while top >= 0:
            root = roots[top]
            border = (heights[x] + x * x - heights[root] - root * root) / (2.0 * (x - root))
            if border > borders[top]:
                break
            top -= 1
        if top < 0:
            border = -np.inf
        top += 1
        roots[top], borders[top] = x, border
    at = 0
    for x in range(n):
        while at < top and borders[at + 1] < x:
            at += 1
        out[x] = heights[roots[at]] + (x - roots[at]) * (x - roots[at])


@kernel(parallel=False, fastmath=False)
def transform(marked, columns, out):
    """out <- distance of every pixel to the nearest marked one."""
    along_columns(marked, columns)
    roots = scratch.tile(marked.shape[1], np.int64)
    borders = scratch.tile(marked.shape[1], np.float64)
    for y in range(marked.shape[0]):
        lower_envelope(columns[y], roots, borders, out[y])
        for x in range(out.shape[1]):
            out[y, x] = np.sqrt(out[y, x])


def distance(marked: Bool[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """Euclidean distance of every pixel to the nearest marked one, float64; at least one is."""
    out = scratch.empty(marked.shape, np.float64)
    transform(marked, scratch.empty(marked.shape, np.float64), out)
    return out
