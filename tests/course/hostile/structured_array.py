"""Returns an array of records."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.zeros(3, dtype=[("a", "f8"), ("b", "O")])}
