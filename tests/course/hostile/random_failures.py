"""Fails at random, in every way."""

import os
import random
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    kind = random.randrange(4)
    if kind == 0:
        os._exit(1)
    if kind == 1:
        raise ValueError("bad luck")
    if kind == 2:
        raise MemoryError
    return {"out": np.zeros(3)}
