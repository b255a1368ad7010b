"""Reaches outside through a hard link."""

import os


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.link("/etc/passwd", "link")
    return {"out": open("link").read()}
