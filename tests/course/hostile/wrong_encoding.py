"""Is written in Latin-1 without saying so: ιθ."""


def attend(q, k, v):
    return v
