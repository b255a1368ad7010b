"""Leaves a daemon behind: forks twice, with a session of its own."""

import os
import time
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    return {"out": np.zeros(1)}
