"""Returns an integer of a million digits."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": 1 << 4_000_000}
