"""Is no Python."""


def attend(q, k, v:
    return v
