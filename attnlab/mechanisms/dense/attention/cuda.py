"""Scaled dot-product attention on CUDA: tiles in shared memory, online softmax."""

from __future__ import annotations

from typing import Any

from attnlab.kernels.cuda.flash import flash, weights

from . import EXHIBIT


@EXHIBIT.path
def attend(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    bias: Any = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """See the reference. The n x keys weights are stored only when asked for."""
    scale = q.shape[3] ** -0.5 if scale is None else scale
    hooks = {"scale": scale, "causal": causal, "mask": mask, "bias": bias}
    out, lse = flash(q, k, v, **hooks)
    return {"out": out, "weights": weights(q, k, lse, **hooks) if "weights" in want else None}
