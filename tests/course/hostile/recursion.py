"""Recurses without end."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return attend(q, k, v)
