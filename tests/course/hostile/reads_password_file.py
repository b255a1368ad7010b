"""Reads /etc/passwd."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": open("/etc/passwd").read()}
