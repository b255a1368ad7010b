"""Head isolation on CUDA: rotated projections, tiled attention, a factor a head before Wo."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.flash import flash, weights
from attnlab.kernels.cuda.matmul import linear
from attnlab.layers.cuda import merge_heads, split_rotated

from . import EXHIBIT


@EXHIBIT.path
def isolate_head(
    hidden: Any,
    cos: Any,
    sin: Any,
    Wq: Any,
    Wk: Any,
    Wv: Any,
    Wo: Any,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    keep_head: int,
    coefficient: float = 0.0,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference."""
    width = hidden.shape[2]
    dim, h = cos.shape[1], keep_head % n_heads
    dtype = hidden.dtype

    q, k = (split_rotated(linear(hidden, W), cos, sin) for W in (Wq, Wk))
    v = split_rotated(linear(hidden, Wv), cos, sin, turned=False)
    O, lse = flash(q, k, v, scale=dim**-0.5, causal=True)
    made = {"isolated_paper": linear(merge_heads(O, kept=h, factor=coefficient), Wo)}  # (7)
    if want & {"plain", "isolated_code"}:
        plain = linear(merge_heads(O), Wo)
        code = device.empty(plain.shape, dtype)
        _slice_kernel()[device.blocks(code.size), THREADS](
            plain, h, width // n_heads, dtype.type(coefficient), code
        )
        made |= {"plain": plain, "isolated_code": code}
    if "attn" in want:
        made["attn"] = weights(q, k, lse, scale=dim**-0.5, causal=True)
    return made


@cache
def _slice_kernel() -> Any:
    @cuda.jit
    def kernel(plain, kept, size, c, code):
        """(8): slices of the projected state, all but one times c."""
        item = cuda.grid(1)
        n, width = plain.shape[1], plain.shape[2]
        if item < plain.size:
            b, i, place = item // width // n, item // width % n, item % width
            value = plain[b, i, place]
            code[b, i, place] = value if place // size == kept else c * value

    return kernel
