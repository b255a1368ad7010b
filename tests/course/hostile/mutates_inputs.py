"""Writes into its arguments."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    q[...] = 0
    return {"out": v + 1}
