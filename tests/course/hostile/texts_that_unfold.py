"""Returns a list that would take a hundred gigabytes as one array: each text as wide as the longest."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": ["x" * 200_000] + [""] * 150_000}
