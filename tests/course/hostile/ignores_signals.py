"""Ignores what can be ignored, then never returns."""

import signal


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass
