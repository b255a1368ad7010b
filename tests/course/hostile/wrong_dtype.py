"""Returns text instead of numbers."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.full(q.shape, "0.5")}
