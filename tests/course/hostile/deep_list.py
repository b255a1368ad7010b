"""Returns a list in a list in a list …"""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    made = []
    for _ in range(100_000):
        made = [made]
    return {"out": made}
