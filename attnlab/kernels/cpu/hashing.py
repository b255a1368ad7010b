"""Buckets of vectors by the signs of random projections."""

from attnlab.kernels.cpu.runtime import block


@block
def sign_buckets(projections, buckets):
    """buckets[i] <- the integer whose bit b says projections[i, b] > 0 (sign-projection hashing).

    projections (n, bits): the rows times random directions, a product the caller makes with BLAS.
    Vectors at angle t share a bit with probability 1 - t / pi (Charikar 2002).
    """
    for i in range(projections.shape[0]):
        bucket = 0
        for b in range(projections.shape[1]):
            bucket |= (1 if projections[i, b] > 0 else 0) << b
        buckets[i] = bucket


@block
def gray_rank(code):
    """The position of a code in the binary Gray sequence: neighbours there differ in one bit."""
    rank = code
    shift = 1
    while shift < 64:
        rank ^= rank >> shift
        shift *= 2
    return rank
