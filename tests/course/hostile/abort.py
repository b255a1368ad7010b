"""Aborts."""

import os


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.abort()
