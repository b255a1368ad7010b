"""Lightning attention and its layers on the CPU: the chunked scan, and fused passes around it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.exp import sigmoid
from attnlab.kernels.cpu.product import linear
from attnlab.kernels.cpu.runtime import fetch_add, run_workers, worker
from attnlab.kernels.cpu.scan import linear_scan
from attnlab.layers.lrpe import lrpe
from attnlab.layers.norms import rms_norm

from . import EXHIBIT

ROWS = 64  # rows of a piece of work in the passes around the scan


@EXHIBIT.path
def attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n value_dim"],
    slopes: Float[np.ndarray, "heads"] | None = None,
    *,
    block: int = 64,
) -> dict[str, np.ndarray]:
    """See the reference."""
    o, state = linear_scan(q, k, v, slopes, block)
    return {"o": o, "state": state}


@EXHIBIT.path
def gla(
    x: Float[np.ndarray, "batch n dim"],
    w_qkvu: Float[np.ndarray, "4*dim dim"],
    w_out: Float[np.ndarray, "dim dim"],
    slopes: Float[np.ndarray, "num_heads"],
    theta: Float[np.ndarray, "num_heads head_dim"] | None = None,
    pad_mask: Bool[np.ndarray, "batch n"] | None = None,
    x_next: Float[np.ndarray, "batch 1 dim"] | None = None,
    *,
    num_heads: int,
    use_lrpe: bool = False,
    eps: float = 1e-6,
) -> dict[str, np.ndarray]:
    """See the reference."""
    q, k, v, wide = project(x, w_qkvu, num_heads, theta)
    if pad_mask is not None:
        v *= pad_mask[:, None, :, None]
    o, state = linear_scan(q, k, v, slopes)
    out = {"y": linear(norm_and_gate(o, wide, 3 * x.shape[2], eps), w_out), "state": state}
    if x_next is not None:
        q, k, v, wide = project(x_next, w_qkvu, num_heads, theta, offset=x.shape[1])
        state = np.exp(-slopes)[:, None, None] * state + k.swapaxes(2, 3) * v
        o = q @ state
        out |= {
            "y_next": linear(norm_and_gate(o, wide, 3 * x.shape[2], eps), w_out),
            "state_next": state,
        }
    return out


@EXHIBIT.path
def decoder_layer(
    x: Float[np.ndarray, "batch n dim"],
    w_qkvu: Float[np.ndarray, "4*dim dim"],
    w_out: Float[np.ndarray, "dim dim"],
    slopes: Float[np.ndarray, "num_heads"],
    glu1: Float[np.ndarray, "inner dim"],
    glu2: Float[np.ndarray, "inner dim"],
    glu3: Float[np.ndarray, "dim inner"],
    theta: Float[np.ndarray, "num_heads head_dim"] | None = None,
    *,
    num_heads: int,
    use_lrpe: bool = False,
    eps: float = 1e-6,
) -> dict[str, np.ndarray]:
    """See the reference."""
    q, k, v, wide = project(rms_norm(x, eps), w_qkvu, num_heads, theta)
    o, _ = linear_scan(q, k, v, slopes)
    h = linear(norm_and_gate(o, wide, 3 * x.shape[2], eps), w_out)
    h += x
    normed = rms_norm(h, eps)
    inner = linear(normed, glu1)
    inner *= linear(normed, glu2)
    y = linear(inner, glu3)
    y += h
    return {"h": h, "y": y}


@EXHIBIT.path
def tnl_attention(
    x: Float[np.ndarray, "batch n dim"],
    q_proj_weight: Float[np.ndarray, "dim dim"],
    k_proj_weight: Float[np.ndarray, "dim dim"],
    v_proj_weight: Float[np.ndarray, "dim dim"],
    o_proj_weight: Float[np.ndarray, "dim dim"],
    output_gate_0_weight: Float[np.ndarray, "dim//num_heads dim"],
    output_gate_1_weight: Float[np.ndarray, "dim dim//num_heads"],
    norm_weight: Float[np.ndarray, "dim"],
    norm_bias: Float[np.ndarray, "dim"],
    slopes: Float[np.ndarray, "num_heads"],
    *,
    num_heads: int,
    ln_eps: float = 1e-5,
) -> dict[str, np.ndarray]:
    """See the reference."""
    q, k, v = (
        heads_of(linear(x, w), 0, num_heads, x.shape[2] // num_heads, True)
        for w in (q_proj_weight, k_proj_weight, v_proj_weight)
    )
    o, _ = linear_scan(q, k, v, slopes)
    gate = linear(linear(x, output_gate_0_weight), output_gate_1_weight)
    normed = norm_and_gate(o, gate, 0, ln_eps, norm_weight, norm_bias)
    return {"y": linear(normed, o_proj_weight)}


def project(
    x: np.ndarray, w_qkvu: np.ndarray, num_heads: int, theta: np.ndarray | None, offset: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v (batch, heads, n, ·) and x w_qkvu^T, whose last quarter is the gate."""
    wide, dim = linear(x, w_qkvu), x.shape[2]
    q, k, v = (
        heads_of(wide, part * dim, num_heads, dim // num_heads, part < 2) for part in range(3)
    )
    if theta is not None:
        q, k = (lrpe(rows, theta, offset) for rows in (q, k))
    return q, k, v, wide


def heads_of(wide: np.ndarray, first: int, heads: int, dim: int, activate: bool) -> np.ndarray:
    """Columns first … first + heads*dim of (batch, n, ·) as (batch, heads, n, dim), through silu."""
    batch, n, _ = wide.shape
    out = scratch.empty((batch, heads, n, dim), wide.dtype)
    run_workers(split_rows, wide, first, activate, out, np.zeros(1, np.int64))
    return out


@worker
def split_rows(wide, first, activate, out, counter):
    """One worker's share of `heads_of`."""
    batch, heads, n, dim = out.shape
    tiles = (n + ROWS - 1) // ROWS
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * tiles:
            break
        b, start = item // tiles, item % tiles * ROWS
        for t in range(start, min(start + ROWS, n)):
            for h in range(heads):
                source, row = wide[b, t, first + h * dim : first + (h + 1) * dim], out[b, h, t]
                if activate:
                    for c in range(dim):
                        row[c] = source[c] * sigmoid(source[c])
                else:
                    for c in range(dim):
                        row[c] = source[c]


def norm_and_gate(
    o: np.ndarray,
    gate: np.ndarray,
    first: int,
    eps: float,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Norm of the merged heads (batch, n, heads*dim) times the gate, columns first … of `gate`.

    SRMS and the gate as it is; with weight and bias a LayerNorm and the gate's sigmoid.
    """
    batch, heads, n, dim = o.shape
    out = scratch.empty((batch, n, heads * dim), o.dtype)
    layer_norm = weight is not None and bias is not None
    weight, bias = (weight, bias) if layer_norm else (np.ones(1, o.dtype), np.zeros(1, o.dtype))
    counter = np.zeros(1, np.int64)
    run_workers(
        merge_rows, o, gate, first, o.dtype.type(eps), weight, bias, layer_norm, out, counter
    )
    return out


@worker
def merge_rows(o, gate, first, eps, weight, bias, layer_norm, out, counter):
    """One worker's share of `norm_and_gate`."""
    batch, heads, n, dim = o.shape
    width = heads * dim
    tiles = (n + ROWS - 1) // ROWS
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * tiles:
            break
        b, start = item // tiles, item % tiles * ROWS
        for t in range(start, min(start + ROWS, n)):
            row, opened = out[b, t], gate[b, t, first : first + width]
            total = o.dtype.type(0)
            for h in range(heads):
                source = o[b, h, t]
                for c in range(dim):
                    row[h * dim + c] = source[c]
                    total += source[c]
            if layer_norm:
                mean = o.dtype.type(total / width)
                for c in range(width):
                    row[c] -= mean
            square = o.dtype.type(0)
            for c in range(width):
                square += row[c] * row[c]
            norm = o.dtype.type(1 / np.sqrt(square / width + eps))
            if layer_norm:
                for c in range(width):
                    row[c] = (row[c] * norm * weight[c] + bias[c]) * sigmoid(opened[c])
            else:
                for c in range(width):
                    row[c] = row[c] * norm * opened[c]
