"""Is not written yet."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    raise NotImplementedError("attend")
