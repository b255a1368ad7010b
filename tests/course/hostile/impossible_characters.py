"""Returns an array of characters that do not exist."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.full(3, 2**31, "u4").view("U1")}
