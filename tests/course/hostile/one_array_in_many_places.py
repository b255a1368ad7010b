"""A reply that names its one array thousands of times: a terabyte, put together."""

import sys
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    frame = sys._getframe()
    while "codec" not in frame.f_globals:
        frame = frame.f_back

    def encode(value, arrays, tensors=None):
        arrays.append(np.zeros(1 << 20))
        return ["d", [["out", ["l", [["a", 0, "array"]] * 150_000]]]]

    frame.f_globals["codec"].encode = encode
    return {"out": q}
