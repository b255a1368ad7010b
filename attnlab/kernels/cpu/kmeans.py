"""Spherical k-means."""

import numpy as np

from attnlab.kernels.cpu.runtime import block


@block
def spherical_step(x, means, assigned, sums, counts):
    """One step of spherical k-means: assign each row to the mean with the largest product.

    x (n, dim), means (clusters, dim); assigned (n,) <- cluster, ties to the lower; sums (clusters,
    dim) <- the sum of each cluster's rows, counts (clusters,) <- how many. Empty clusters have sum
    0; what becomes of them, and normalising, is the caller's.
    """
    clusters, dim = means.shape
    sums[:] = 0
    counts[:] = 0
    for i in range(x.shape[0]):
        row = x[i]
        best, chosen = row.dtype.type(-np.inf), 0
        for c in range(clusters):
            mean = means[c]
            product = row.dtype.type(0)
            for d in range(dim):
                product += row[d] * mean[d]
            if product > best:
                best, chosen = product, c
        assigned[i] = chosen
        counts[chosen] += 1
        for d in range(dim):
            sums[chosen, d] += row[d]
