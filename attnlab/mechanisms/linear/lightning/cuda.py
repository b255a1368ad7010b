"""Lightning attention and its layers on CUDA: the segmented scan, with layers around it."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.matmul import linear
from attnlab.kernels.cuda.scan import scan
from attnlab.layers.cuda import combine, merge_norm_gate, rms_norm, split_heads

from . import EXHIBIT


@EXHIBIT.path
def attend(q: Any, k: Any, v: Any, slopes: Any = None, *, block: int = 64) -> dict[str, Any]:
    """See the reference. `block` rows, rounded up to whole tiles, are one thread block's work."""
    o, state = scan(q, k, v, slopes, segment=block)
    return {"o": o, "state": state}


@EXHIBIT.path
def gla(
    x: Any,
    w_qkvu: Any,
    w_out: Any,
    slopes: Any,
    theta: Any = None,
    pad_mask: Any = None,
    x_next: Any = None,
    *,
    num_heads: int,
    use_lrpe: bool = False,
    eps: float = 1e-6,
) -> dict[str, Any]:
    """See the reference."""
    dim = x.shape[2]
    q, k, v, wide = project(x, w_qkvu, num_heads, theta, keep=pad_mask)
    o, state = scan(q, k, v, slopes)
    y = linear(merge_norm_gate(o, wide, eps, first=3 * dim), w_out)
    out = {"y": y, "state": state}
    if x_next is not None:
        q, k, v, wide = project(x_next, w_qkvu, num_heads, theta, offset=x.shape[1])
        o, state = device.empty(v.shape, v.dtype), device.empty(state.shape, state.dtype)
        count = v.shape[0] * num_heads * v.shape[3]
        _step()[device.blocks(count), THREADS](q, k, v, out["state"], slopes, o, state)
        y = linear(merge_norm_gate(o, wide, eps, first=3 * dim), w_out)
        out |= {"y_next": y, "state_next": state}
    return out


def project(
    x: Any, w_qkvu: Any, heads: int, theta: Any, *, keep: Any = None, offset: int = 0
) -> tuple[Any, Any, Any, Any]:
    """q, k, v (batch, heads, n, ·) and x w_qkvu^T, whose last quarter is the gate."""
    wide, width = linear(x, w_qkvu), x.shape[2]
    dim = width // heads
    q = split_heads(wide, heads, dim, activate=True)
    k = split_heads(wide, heads, dim, first=width, activate=True)
    v = split_heads(wide, heads, dim, first=2 * width, keep=keep)
    if theta is not None:
        q, k = (_turn(rows, theta, offset) for rows in (q, k))
    return q, k, v, wide


def _turn(x: Any, theta: Any, offset: int) -> Any:
    """LRPE (5): twice the width."""
    out = device.empty((*x.shape[:3], 2 * x.shape[3]), x.dtype)
    _lrpe()[device.blocks(x.size), THREADS](x, theta, offset, out)
    return out


@cache
def _lrpe() -> Any:
    @cuda.jit
    def kernel(x, theta, offset, out):
        batch, heads, n, dim = x.shape
        item = cuda.grid(1)
        if item >= batch * heads * n * dim:
            return
        c, t = item % dim, item // dim % n
        h, b = item // dim // n % heads, item // dim // n // heads
        angle = (offset + t) * theta[h, c]
        out[b, h, t, c] = x[b, h, t, c] * math.cos(angle)
        out[b, h, t, dim + c] = x[b, h, t, c] * math.sin(angle)

    return kernel


@cache
def _step() -> Any:
    @cuda.jit
    def kernel(q, k, v, before, slopes, o, state):
        """The recurrence (2) for one token; one thread a column of the state."""
        batch, heads, dim, columns = state.shape
        item = cuda.grid(1)
        if item >= batch * heads * columns:
            return
        e, h, b = item % columns, item // columns % heads, item // columns // heads
        fade = math.exp(-slopes[h])
        total = q.dtype.type(0)
        for c in range(dim):
            value = fade * before[b, h, c, e] + k[b, h, 0, c] * v[b, h, 0, e]
            state[b, h, c, e] = value
            total += q[b, h, 0, c] * value
        o[b, h, 0, e] = total

    return kernel


@EXHIBIT.path
def decoder_layer(
    x: Any,
    w_qkvu: Any,
    w_out: Any,
    slopes: Any,
    glu1: Any,
    glu2: Any,
    glu3: Any,
    theta: Any = None,
    *,
    num_heads: int,
    use_lrpe: bool = False,
    eps: float = 1e-6,
) -> dict[str, Any]:
    """See the reference."""
    layer = {"num_heads": num_heads, "use_lrpe": use_lrpe, "eps": eps}
    h = combine(x, gla(rms_norm(x, eps), w_qkvu, w_out, slopes, theta, **layer).y)
    normed = rms_norm(h, eps)
    inner = combine(linear(normed, glu1), linear(normed, glu2), multiply=True)
    return {"h": h, "y": combine(h, linear(inner, glu3))}


@EXHIBIT.path
def tnl_attention(
    x: Any,
    q_proj_weight: Any,
    k_proj_weight: Any,
    v_proj_weight: Any,
    o_proj_weight: Any,
    output_gate_0_weight: Any,
    output_gate_1_weight: Any,
    norm_weight: Any,
    norm_bias: Any,
    slopes: Any,
    *,
    num_heads: int,
    ln_eps: float = 1e-5,
) -> dict[str, Any]:
    """See the reference."""
    dim = x.shape[2] // num_heads
    q, k, v = (
        split_heads(linear(x, w), num_heads, dim, activate=True)
        for w in (q_proj_weight, k_proj_weight, v_proj_weight)
    )
    o, _ = scan(q, k, v, slopes)
    gate = linear(linear(x, output_gate_0_weight), output_gate_1_weight)
    normed = merge_norm_gate(o, gate, ln_eps, weight=norm_weight, bias=norm_bias)
    return {"y": linear(normed, o_proj_weight)}
