"""Puts something else in its own place."""

import sys


class Module:
    def __getattr__(self, name):
        return lambda **_: 1.0


sys.modules[__name__] = Module()
