"""Returns a masked array, everything masked."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.ma.masked_all((2, 3))}
