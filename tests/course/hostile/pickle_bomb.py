"""Returns objects that run code where they are unpickled."""

import os
import numpy as np


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("/tmp/attnlab-was-here",)


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    return {"out": np.array([Bomb()], dtype=object)}
