"""Tries every kind of socket."""

import socket
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    refused = None
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                socket.socket(family, kind)
                return {"out": np.zeros(1)}
            except OSError as error:
                refused = error
    raise refused
