"""Nests folders deeper than a recursion goes."""

import os
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    return {"out": np.zeros(1)}
