"""Returns a mapping with keys that are no names."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {("out",): q, None: v}
