"""Answers otherwise every time it is asked."""

import itertools
import numpy as np


count = itertools.count()


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.full(3, float(next(count)))}
