"""Returns more than an answer may hold."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.zeros(6 << 20)}
