"""Returns a mapping that holds itself."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    made = {}
    made["out"] = made
    return made
