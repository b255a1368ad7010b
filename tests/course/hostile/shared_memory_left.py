"""Leaves a segment of shared memory that outlives it."""

import ctypes
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.shmget(0x41544E, 1 << 20, 0o1666) < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return {"out": np.zeros(1)}
