"""Never returns."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    while True:
        pass
