"""Raises an error whose message never ends."""


class Endless(Exception):
    def __str__(self):
        while True:
            pass


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    raise Endless
