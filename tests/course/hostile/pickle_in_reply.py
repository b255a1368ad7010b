"""Answers with an archive that holds a pickle."""

import io
import json
import os
import struct
import sys
import time
import numpy as np


def request():
    """The request that is being answered, from the frames above."""
    frame = sys._getframe()
    while frame is not None:
        if "request" in frame.f_locals:
            return frame.f_locals["request"]
        frame = frame.f_back


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("/tmp/attnlab-was-here",)


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    out = io.BytesIO()
    np.savez(out, **{"0": np.array([Bomb()], dtype=object)})
    data = out.getvalue()
    text = json.dumps(
        {"nonce": request()["nonce"], "status": "passed", "value": ["a", 0, "array"], "views": [],
         "changed": []}
    ).encode()
    os.write(3, struct.pack("<4sIQ", b"ALAB", len(text), len(data)) + text + data)
    time.sleep(3600)
