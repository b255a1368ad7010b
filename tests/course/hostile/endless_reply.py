"""Announces an answer of petabytes and sends without end."""

import os
import struct


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.write(3, struct.pack("<4sIQ", b"ALAB", 100, 1 << 50))
    while True:
        os.write(3, bytes(65536))
