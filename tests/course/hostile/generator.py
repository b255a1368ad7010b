"""Returns a promise."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    yield q
