"""Prints without end."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    while True:
        print('x' * 1000)
