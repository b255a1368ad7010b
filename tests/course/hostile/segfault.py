"""Reads from address 0."""

import ctypes


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    ctypes.string_at(0)
