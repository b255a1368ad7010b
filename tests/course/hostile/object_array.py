"""Returns an array of objects."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.array([q, "x", None], dtype=object)}
