"""Reaches outside through a link that it makes."""

import os


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.symlink("/etc/hostname", "link")
    return {"out": open("link").read()}
