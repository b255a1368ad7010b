"""Becomes another program."""

import os
import sys


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)"])
