"""The K nearest of many patches, position discounted: tiles of products and a running top K.

|P - Q|^2 = |P|^2 + |Q|^2 - 2 P.Q, so that a tile of distances is a matrix product, as a tile of
attention scores is. Each query keeps its nearest so far; the table of all pairs never exists.
The product loses digits where P is close to Q: the K that it chose are computed again.
"""

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nt, scalars
from attnlab.kernels.cpu.runtime import (
    block,
    fetch_add,
    run_workers,
    single_threaded_blas,
    threads,
    worker,
)

QUERIES, KEYS = 64, 512  # a tile of distances


@block
def select(keys, indices, size, K):
    """Bring the K smallest of keys[:size] to the front (Hoare's quickselect); the largest of them."""
    low, high = 0, size - 1
    while low < high:
        a, b, c = keys[low], keys[(low + high) // 2], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))  # the median of three
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                indices[i], indices[j] = indices[j], indices[i]
                i += 1
                j -= 1
        if j >= K - 1:
            high = j
        elif i <= K - 1:
            low = i
        else:
            break
    largest = keys[0]
    for i in range(1, K):
        largest = max(largest, keys[i])
    return largest


@block
def norms(rows, out):
    """out[i] <- |rows[i]|^2."""
    for i in range(rows.shape[0]):
        total = rows.dtype.type(0)
        for k in range(rows.shape[1]):
            total += rows[i, k] * rows[i, k]
        out[i] = total


@block
def gather(image, p, columns, first, out):
    """out[i] <- the flat p x p patch number first + i of a padded image (rows, columns, channels),
    `columns` of them a row."""
    run = p * image.shape[2]
    for i in range(out.shape[0]):
        y, x = (first + i) // columns, (first + i) % columns
        for r in range(p):
            line = image[y + r].reshape(-1)
            start, to = x * image.shape[2], r * run
            for k in range(run):
                out[i, to + k] = line[start + k]


@block
def discounted(products, norm, norms_q, y, x, qy, qx, rate, squared, keys):
    """keys <- what orders the distances: d_color^2 / discount^2, or d_color^2 / discount."""
    one, zero = keys.dtype.type(1), keys.dtype.type(0)
    for j in range(keys.size):
        dy, dx = y - qy[j], x - qx[j]
        discount = one + rate * np.sqrt(dy * dy + dx * dx)
        d2 = max(norm + norms_q[j] + products[j], zero)
        keys[j] = d2 / (discount if squared else discount * discount)


@block
def offer(keys, count, first, skip, K, limit, kept, indices, size):
    """Keep those of keys[:count], of candidates first, first + 1, ..., that are below the limit.

    A full store is cut down to its K smallest, which lowers the limit: a few operations a candidate
    that is kept, where a heap would take a walk through its levels. Returns limit and size.
    """
    for j in range(count):
        if keys[j] < limit and first + j != skip:
            kept[size], indices[size] = keys[j], first + j
            size += 1
            if size == kept.size:
                limit = select(kept, indices, size, K)
                size = K
    return limit, size


@block
def mean_exact(row, q, indices, size, y, x, qy, qx, rate, squared):
    """The mean of d over the chosen candidates, each computed from differences; 0 for none."""
    one, total = row.dtype.type(1), row.dtype.type(0)
    for i in range(size):
        j = indices[i]
        d2 = row.dtype.type(0)
        for k in range(row.size):
            gap = row[k] - q[j, k]
            d2 += gap * gap
        d2 /= row.dtype.type(row.size)
        dy, dx = y - qy[j], x - qx[j]
        total += (d2 if squared else np.sqrt(d2)) / (one + rate * np.sqrt(dy * dy + dx * dx))
    return total / row.dtype.type(size) if size > 0 else total


@worker
def search(image, p, q, qy, qx, own, K, rate, squared, tile, out, counter):
    """One worker's share of the queries: out[i] <- mean distance to the K nearest candidates."""
    columns = image.shape[1] - p + 1
    kind = image.dtype
    size = q.shape[1]
    K = min(K, q.shape[0])
    store = min(max(2 * K, 32), q.shape[0])
    minus_two = scalars(kind.type(-2), kind.type(0), kind)
    rows, products = scratch.tile((tile, size), kind), scratch.tile((tile, KEYS), kind)
    kept, indices = scratch.tile((tile, store), kind), scratch.tile((tile, store), np.int64)
    keys, limits = scratch.tile(KEYS, kind), scratch.tile(tile, kind)
    filled = scratch.tile(tile, np.int64)
    row_norms, candidate_norms = scratch.tile(tile, kind), scratch.tile(q.shape[0], kind)
    norms(q, candidate_norms)
    while True:
        start = fetch_add(counter, tile)
        if start >= out.size:
            break
        count = min(tile, out.size - start)
        gather(image, p, columns, start, rows[:count])
        norms(rows[:count], row_norms)
        for i in range(count):
            filled[i], limits[i] = 0, np.inf
        for first in range(0, q.shape[0], KEYS):
            last = min(first + KEYS, q.shape[0])
            gemm_nt(minus_two, rows[:count], q[first:last], products[:count, : last - first])
            for i in range(count):
                y, x = kind.type((start + i) // columns), kind.type((start + i) % columns)
                discounted(
                    scratch.packed(products[i, : last - first]), row_norms[i],
                    candidate_norms[first:last], y, x, qy[first:last], qx[first:last], rate,
                    squared, keys[: last - first],
                )  # fmt: skip
                limits[i], filled[i] = offer(
                    keys, last - first, first, own[start + i], K, limits[i], kept[i], indices[i],
                    filled[i],
                )  # fmt: skip
        for i in range(count):
            if filled[i] > K:
                select(kept[i], indices[i], filled[i], K)
                filled[i] = K
            y, x = kind.type((start + i) // columns), kind.type((start + i) % columns)
            out[start + i] = mean_exact(
                rows[i], q, indices[i], filled[i], y, x, qy, qx, rate, squared
            )


def patches(
    image: Float[np.ndarray, "rows columns channels"], p: int, step: int
) -> Float[np.ndarray, "patches size"]:
    """Flat patches of a padded image, starting at every step-th row and column, in raster order."""
    view = np.lib.stride_tricks.sliding_window_view(image, (p, p), axis=(0, 1))[::step, ::step]
    return view.transpose(0, 1, 3, 4, 2).reshape(-1, p * p * image.shape[2])


def mean_distances(
    image: Float[np.ndarray, "rows columns channels"],
    p: int,
    candidates: Float[np.ndarray, "candidates size"],
    places: tuple[Float[np.ndarray, "candidates"], Float[np.ndarray, "candidates"]],
    own: Int[np.ndarray, "queries"],
    K: int,
    rate: float,
    squared: bool,
) -> Float[np.ndarray, "queries"]:
    """Every patch of a padded image against the candidates: the mean of the K smallest d.

    d = d_color / (1 + rate |query - candidate|), d_color = |P - Q| / sqrt(size), or its square.
    `own` is the candidate that a query leaves out, -1 for none.
    """
    out = scratch.empty(own.size, image.dtype)
    qy, qx = (np.ascontiguousarray(t, image.dtype) for t in places)
    tile = max(8, min(QUERIES, -(-own.size // (4 * threads()))))
    work = own.size * candidates.size
    with single_threaded_blas():
        run_workers(
            search, image, p, candidates, qy, qx, own, K, image.dtype.type(rate), squared, tile,
            out, np.zeros(1, np.int64), workers=None if work > 2**18 else 1,
        )  # fmt: skip
    return out
