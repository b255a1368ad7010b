"""Returns truth values that are neither."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.full(3, 7, "u1").view(bool)}
