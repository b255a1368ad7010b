"""Raises an error that cannot be printed."""


class Mute(Exception):
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    raise Mute
