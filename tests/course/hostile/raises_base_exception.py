"""Raises what `except Exception` misses."""


class Stop(BaseException):
    pass


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    raise Stop
