"""Circuits by sparse autoencoders on CUDA: a thread an element, the fastest index along memory.

The weights are kept beside their transposes, so that neighbouring threads always read neighbouring
numbers; the matrices are small enough to stay in the caches. Grids are bounded and threads stride.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from attnlab.contract import BackendUnavailable
from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS

from . import EXHIBIT
from . import cuda_kernels as kernels
from .curves import auc, judge_edges, judge_nodes, members, softmax

CHUNK = 4 if device.simulated() else 2**15  # rows whose activations exist at a time
MOST = 2 if device.simulated() else 1024  # blocks of a grid


@EXHIBIT.path
def find_circuit(
    streams: Any,
    permutation: Any,
    enc_weight: Any,
    enc_bias: Any,
    dec_weight: Any,
    tied_bias: Any,
    circuit_heads: Any = None,
    *,
    n_layers: int,
    n_heads: int,
    n_train: int = 10,
    n_epochs: int = 500,
    lr: float = 1e-3,
    lam: float = 0.02,
    dec_unit: str = "rows",
) -> dict[str, Any]:
    """See the reference."""
    N, n, d = streams.shape
    F, dtype = enc_bias.shape[0], np.dtype(streams.dtype)
    x = streams.reshape(N * n, d)
    sae = Autoencoder(enc_weight, enc_bias, dec_weight, tied_bias, dec_unit == "columns")
    first, error = device.empty((2 * n, F), dtype), device.empty((2 * n, d), dtype)
    sae.encode(x[: 2 * n], first)
    sae.residual(x[: 2 * n], first, error)
    reconstruction = device.empty((2 * n, d), dtype)
    kernels.add()[_grid(2 * n * d), THREADS](error, x[: 2 * n], reconstruction)
    sums = [sae.sums(x[r : r + CHUNK]) for r in range(0, N * n, CHUNK)]
    squares, ones = np.sum([s.copy_to_host() for s in sums], axis=0)

    rows = device.empty((min(n_train, N) * n, d), dtype)
    kernels.gather()[_grid(rows.size), THREADS](x, permutation, n, rows)
    losses = device.zeros((n_epochs, 2), np.float64)
    for epoch in range(n_epochs):
        sae.step(rows, losses[epoch], lr, lam, epoch + 1)
    parts = losses.copy_to_host()

    codes, margins = device.empty(N * n, np.int64), device.empty(N * n, dtype)
    for r in range(0, N * n, CHUNK):
        a = device.empty((min(CHUNK, N * n - r), F), dtype)
        sae.encode(x[r : r + CHUNK], a)
        kernels.code()[_grid(len(a)), THREADS](a, codes[r : r + CHUNK], margins[r : r + CHUNK])
    u = node_counts(codes.copy_to_host().reshape(N, n))[0].astype(dtype)
    made: dict[str, Any] = {
        "init_loss": np.asarray(squares / (N * n * d) + lam * ones / (N * n), dtype),
        "train_loss": (parts[:, 0] / rows.size + lam * parts[:, 1] / rows.shape[0]).astype(dtype),
        "code_margin_min": np.asarray(margins.copy_to_host().min(), dtype),
        "node_softmax": softmax(u),
    }
    if circuit_heads is not None:
        made["node_auc"] = np.asarray(auc(u, members(circuit_heads.copy_to_host(), n)), dtype)
    return {name: cuda.to_device(value) for name, value in made.items()} | {
        "init_activations_first2": first.reshape(2, n, F),
        "init_reconstruction_first2": reconstruction.reshape(2, n, d),
        "trained_enc_weight": sae.W_e,
        "trained_enc_bias": sae.b_e,
        "trained_dec_weight": sae.W_d,
        "trained_tied_bias": sae.t,
        "codes": codes.reshape(N, n),
    }


@EXHIBIT.path
def score_codes(
    codes: Any,
    circuit_heads: Any = None,
    median_pred: Any = None,
    *,
    n_layers: int,
    n_heads: int,
    edge_k: list[int] | None = None,
    n_features: int | None = None,
) -> dict[str, Any]:
    """See the reference: a block a pair of heads, the pairs of codes as bits in shared memory. The
    order of (8) is sorted on the host."""
    own = codes.copy_to_host()
    n = own.shape[1]
    truth = None if circuit_heads is None else members(circuit_heads.copy_to_host(), n)
    # A head's codes become ranks among those it uses: the bitsets stay small.
    ranks = np.stack([np.unique(c, return_inverse=True)[1] for c in own.T])  # (n, N)
    F = int(ranks.max()) + 1
    if 32 * kernels.WORDS < F:
        raise BackendUnavailable(
            f"backend cuda: a head uses {F} codes, {32 * kernels.WORDS} at most fit"
        )
    U, total = device.zeros((n, n), np.int64), device.zeros((n, n), np.int64)
    if n > 1:
        kernels.pairs()[n * (n - 1) // 2, THREADS](cuda.to_device(ranks), F, U, total)
    pred = None if median_pred is None else median_pred.copy_to_host().astype(bool)
    made = judge_nodes(node_counts(ranks.T), n_layers, truth, pred)
    made |= judge_edges(U.copy_to_host(), total.copy_to_host(), edge_k, truth)

    def up(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: up(v) for k, v in value.items()}
        return None if value is None else cuda.to_device(np.asarray(value))

    return {name: up(value) for name, value in made.items()}


def node_counts(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(5) on the host: N n look-ups of flags, nothing beside coding the streams."""
    N, n = codes.shape
    seen = np.zeros((2, n, int(codes.max()) + 1), bool)
    for side, part in enumerate((codes[: N // 2], codes[N // 2 :])):
        seen[side, np.arange(n), part] = True
    pos, neg = seen
    return (pos & ~neg).sum(1), (neg & ~pos).sum(1), (pos | neg).sum(1)


class Autoencoder:
    """Weights on the device, their transposes, gradients and the moments of Adam."""

    def __init__(self, W_e: Any, b_e: Any, W_d: Any, t: Any, by_columns: bool) -> None:
        self.by_columns = by_columns
        self.dtype = np.dtype(W_e.dtype)
        self.W_e, self.b_e, self.W_d, self.t = (_copy(w) for w in (W_e, b_e, W_d, t))
        self.W_et, self.W_dt = (device.empty(w.shape[::-1], self.dtype) for w in (W_e, W_d))
        weights = (W_e, b_e, W_d, t)
        self.gradients = [device.empty(w.shape, self.dtype) for w in weights]
        self.moments = [device.zeros((2, *w.shape), self.dtype) for w in weights]
        self.rescale()

    def rescale(self) -> None:
        """(3), and the transposes."""
        for w, turned, by_columns in (
            (self.W_e, self.W_et, False),
            (self.W_d, self.W_dt, self.by_columns),
        ):
            kernels.unit()[_grid(w.shape[1 if by_columns else 0]), THREADS](w, by_columns)
            kernels.transpose()[_grid(w.size), THREADS](w, turned)

    def encode(self, x: Any, a: Any) -> None:
        kernels.encode()[_grid(a.size), THREADS](x, self.W_et, self.b_e, self.t, a)

    def residual(self, x: Any, a: Any, error: Any) -> None:
        kernels.residual()[_grid(error.size), THREADS](x, a, self.W_dt, self.t, error)

    def sums(self, x: Any, a: Any = None, error: Any = None) -> Any:
        """(2,): the sum of squared errors and the sum of activations of rows x."""
        if a is None:
            a = device.empty((x.shape[0], self.b_e.size), self.dtype)
            error = device.empty(x.shape, self.dtype)
            self.encode(x, a)
            self.residual(x, a, error)
        out = device.empty(2, np.float64)
        kernels.sums()[1, THREADS](error, a, out)
        return out

    def step(self, x: Any, out: Any, lr: float, lam: float, t: int) -> None:
        """The parts of the loss into out (2,); then one step of projected Adam, and (3)."""
        R, d = x.shape
        F, kind = self.b_e.size, self.dtype.type
        a, d_a = (device.empty((R, F), self.dtype) for _ in "12")
        error = device.empty((R, d), self.dtype)
        self.encode(x, a)
        self.residual(x, a, error)
        kernels.sums()[1, THREADS](error, a, out)
        scale = kind(2 / (R * d))
        kernels.backward()[_grid(a.size), THREADS](error, a, self.W_d, scale, kind(lam / R), d_a)
        g_We, g_be, g_Wd, g_t = self.gradients
        kernels.outer()[_grid(g_We.size), THREADS](d_a, x, self.t, kind(1), True, g_We)
        kernels.outer()[_grid(g_Wd.size), THREADS](error, a, self.t, scale, False, g_Wd)
        kernels.column_sums()[_grid(F), THREADS](d_a, kind(1), g_be)
        kernels.column_sums()[_grid(d), THREADS](error, scale, g_t)
        kernels.tied()[_grid(d), THREADS](self.W_e, g_be, g_t)
        kernels.project()[_grid(F), THREADS](self.W_e, g_We, False)
        kernels.project()[_grid(F if self.by_columns else d), THREADS](
            self.W_d, g_Wd, self.by_columns
        )
        rates = kind(lr / (1 - 0.9**t)), kind(1 / (1 - 0.999**t))
        weights = (self.W_e, self.b_e, self.W_d, self.t)
        for w, g, m in zip(weights, self.gradients, self.moments):
            size = w.size
            flat = w.reshape(size), g.reshape(size), m.reshape(2, size)
            kernels.adam()[_grid(size), THREADS](*flat, *rates)
        self.rescale()


def _grid(items: int) -> int:
    return min(MOST, device.blocks(items))


def _copy(array: Any) -> Any:
    out = device.empty(array.shape, array.dtype)
    kernels.assign()[_grid(array.size), THREADS](array.reshape(array.size), out.reshape(array.size))
    return out
