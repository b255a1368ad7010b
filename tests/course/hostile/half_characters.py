"""Returns text and keys that no file takes."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": "\ud800"}
