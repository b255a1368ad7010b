"""Answers with JSON nested deeper than a parser recurses."""

import os
import struct
import time


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    text = b"[" * 1_000_000 + b"]" * 1_000_000
    data = struct.pack("<4sIQ", b"ALAB", len(text), 0) + text
    while data:
        data = data[os.write(3, data) :]
    time.sleep(3600)
