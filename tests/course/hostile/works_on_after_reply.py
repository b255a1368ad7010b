"""Goes on computing after its answer."""

import threading
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    def spin():
        while True:
            pass

    threading.Thread(target=spin, daemon=True).start()
    return {"out": np.zeros(1)}
