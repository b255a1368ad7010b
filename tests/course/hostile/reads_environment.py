"""Returns its environment."""

import os


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": dict(os.environ)}
