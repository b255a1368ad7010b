"""Products of two rows, inside compiled code."""

from attnlab.kernels.cpu.runtime import block


@block
def dot(a, b):
    """a . b of two 1-D rows of one length, added up in their own precision."""
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total
