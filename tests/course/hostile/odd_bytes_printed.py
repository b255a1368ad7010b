"""Prints control sequences and bytes that are no text."""

import os
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.write(1, b"\x1b[2J\x1b]0;title\x07\xff\xfe\x00\r\n" * 3)
    return {"out": np.zeros(1)}
