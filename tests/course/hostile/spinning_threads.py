"""Spins in many threads outside the interpreter's lock."""

import threading
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    def spin():
        big = np.ones(100_000)
        while True:
            np.sin(big, out=big)

    for _ in range(3):
        threading.Thread(target=spin, daemon=True).start()
    spin()
