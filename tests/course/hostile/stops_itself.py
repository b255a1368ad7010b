"""Stops its process instead of ending it."""

import os
import signal


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.kill(os.getpid(), signal.SIGSTOP)
