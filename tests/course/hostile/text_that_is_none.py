"""Raises an error of half characters and terminal codes."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    raise ValueError("\ud800 \x1b[2J \x00")
