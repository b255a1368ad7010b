"""Changes its arguments' shape and dtype in place."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    q.shape = (-1,)
    k.dtype = "u1"
    return {"out": v + 1}
