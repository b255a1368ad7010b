"""Kills its own process."""

import os
import signal


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.kill(os.getpid(), signal.SIGKILL)
