"""Returns thousands of arrays under one key of a million characters, which every path to them repeats."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"x" * 1_000_000: [np.zeros(1) for _ in range(5_000)]}
