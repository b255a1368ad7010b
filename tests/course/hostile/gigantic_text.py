"""Returns a text of many megabytes."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": "x" * 30_000_000}
