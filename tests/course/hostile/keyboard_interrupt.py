"""Pretends that somebody pressed control-C."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    raise KeyboardInterrupt
