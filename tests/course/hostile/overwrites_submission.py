"""Rewrites its own file."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    with open(__file__, "w") as file:
        file.write("")
    return {"out": np.zeros(1)}
