"""Returns its argument."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": v[..., ::-1]}
