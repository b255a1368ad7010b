"""Starts a pool of processes."""

import multiprocessing
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        return {"out": np.array(pool.map(abs, range(4)))}
