"""Writes to its error stream without end, past Python."""

import os


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    while True:
        os.write(2, b'x' * 65536)
