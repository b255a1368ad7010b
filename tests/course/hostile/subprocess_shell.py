"""Starts a shell."""

import subprocess
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    subprocess.run(["/bin/sh", "-c", "sleep 3600 &"], check=True)
    return {"out": np.zeros(1)}
