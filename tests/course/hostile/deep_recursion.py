"""Recurses until the C stack ends."""

import sys


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    sys.setrecursionlimit(10**9)

    class Deep:
        def __getattr__(self, name):
            return getattr(self, name + "x")

    return Deep().x
