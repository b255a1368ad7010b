"""A long short-term memory layer over a batch of sequences, and one step of it.

Every worker takes a group of sequences, so that a time step is a small product with the recurrent
matrix. Gate order i, f, g, o. Weights come transposed: (inputs, 4 hidden) and (hidden, 4 hidden), so
that a row of pre-activations is one contiguous sum.
"""

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn
from attnlab.kernels.cpu.exp import sigmoid, tanh
from attnlab.kernels.cpu.runtime import (
    block,
    contiguous,
    fetch_add,
    run_workers,
    single_threaded_blas,
    threads,
    worker,
)


@block
def preactivate(x, w_x, bias, z):
    """z (4 hidden) <- x W_x + bias, for few inputs."""
    for g in range(z.size):
        z[g] = bias[g]
    for d in range(x.size):
        value, row = x[d], w_x[d]
        for g in range(z.size):
            z[g] += value * row[g]


@block
def advance(z, c, h):
    """c, h (hidden) <- the next cell and hidden state from pre-activations z (4 hidden)."""
    hidden = h.size
    for u in range(hidden):
        new = sigmoid(z[hidden + u]) * c[u] + sigmoid(z[u]) * tanh(z[2 * hidden + u])
        c[u] = new
        h[u] = sigmoid(z[3 * hidden + u]) * tanh(new)


@worker
def lstm_steps(x, lengths, h, c, w_x, w_h, bias, out, group, counter):
    """One worker's share of `lstm`; h and c (batch, hidden) end as the last real step's state."""
    batch, steps, _ = x.shape
    z_all = scratch.tile((group, bias.size), x.dtype)
    accumulate = np.ones(2, x.dtype)
    while True:
        first = fetch_add(counter, 1) * group
        if first >= batch:
            break
        last = min(first + group, batch)
        z = z_all[: last - first]
        for t in range(steps):
            for b in range(first, last):
                preactivate(x[b, t], w_x, bias, z[b - first])
            gemm_nn(accumulate, h[first:last], w_h, z)
            for b in range(first, last):
                real = t < lengths[b]
                if real:
                    advance(z[b - first], c[b], h[b])
                for u in range(h.shape[1]):
                    out[b, t, u] = h[b, u] if real else 0


def lstm(
    x: Float[np.ndarray, "batch steps inputs"],
    lengths: Int[np.ndarray, "batch"],
    h: Float[np.ndarray, "batch hidden"],
    c: Float[np.ndarray, "batch hidden"],
    w_x: Float[np.ndarray, "4*hidden inputs"],
    w_h: Float[np.ndarray, "4*hidden hidden"],
    bias: Float[np.ndarray, "4*hidden"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hidden states (batch, steps, hidden), 0 past each length; last h; last c), from state (h, c).

    float32 or float64, as x. h and c are copied, not changed.
    """
    batch, steps, _ = x.shape
    h, c = h.astype(x.dtype, order="C", copy=True), c.astype(x.dtype, order="C", copy=True)
    out = scratch.empty((batch, steps, h.shape[1]), x.dtype)
    workers = threads() if batch > 1 and steps * w_h.size * batch > 2**20 else 1
    with single_threaded_blas():
        run_workers(
            lstm_steps,
            *(contiguous(x), contiguous(lengths, np.int64), h, c),
            *(contiguous(w_x.T), contiguous(w_h.T), contiguous(bias), out),
            *(-(-batch // workers), np.zeros(1, np.int64)),
            workers=workers,
        )
    return out, h, c
