"""Opens a port."""

import socket
import numpy as np


def attend(q, k, v, mask=None, bias=None, *, causal=False, scale=None):
    socket.create_server(("127.0.0.1", 0))
    return {"out": np.zeros(1)}
