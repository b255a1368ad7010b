"""Returns an array that lives in a file."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    made = np.memmap("made", dtype="f8", mode="w+", shape=(2, 3))
    made[:] = 7
    return {"out": made}
