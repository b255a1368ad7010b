"""Returns terabytes that take no memory."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.broadcast_to(np.float64(0), (1 << 20, 1 << 20))}
