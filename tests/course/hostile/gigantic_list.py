"""Returns a list of millions."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": [0.0] * 3_000_000}
