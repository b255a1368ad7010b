"""Extractors in PyTorch: batched products, a running sum, or convolution by FFT."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from . import EXHIBIT

DIRECT = 256  # up to this length the Toeplitz product of ME beats the FFT
TILE = 128  # rows of an SHE tile: each lag block is one product over tile * lags


@EXHIBIT.path
def extract(
    x: Float[Tensor, "batch n dim"],
    W: Float[Tensor, "L dim dim"] | None = None,
    w: Float[Tensor, "L dim"] | Float[Tensor, "L"] | None = None,
    W_shared: Float[Tensor, "dim dim"] | None = None,
    W_adj: Float[Tensor, "dim dim"] | None = None,
    w_adj: Float[Tensor, "dim"] | None = None,
    *,
    kind: str,
    index: str = "lag",
    sqrt_scale: bool = True,
) -> dict[str, Tensor]:
    """See the reference."""
    n = x.shape[1]
    v = x @ W_shared if kind == "HE" else x
    if kind == "SHE":
        assert W is not None
        e = _places(v, W[:n]) if index == "absolute" else _lags(v, W[:n])
    else:
        assert w is not None
        table = w[:n] if w.ndim == 2 else w[:n, None]  # (n, dim) or (n, 1)
        e = (v * table).cumsum(1) if index == "absolute" else _filter(v, table)
    y = e * (x * w_adj if kind == "ME" else x @ W_adj)
    if sqrt_scale:
        y = y * torch.arange(1, n + 1, dtype=x.dtype, device=x.device).rsqrt()[:, None]
    return {"y": y}


def _places(x: Tensor, W: Tensor) -> Tensor:
    """SHE by absolute place: one (batch, dim) @ (dim, dim) product a place, then a running sum."""
    return torch.bmm(x.transpose(0, 1), W).transpose(0, 1).cumsum(1)


def _lags(x: Tensor, W: Tensor) -> Tensor:
    """SHE by lag as implicit matrix products: rows of TILE past tokens meet TILE matrices at once."""
    batch, n, dim = x.shape
    lags = min(TILE, n)
    reverse = W.flip(0)  # reverse[n-1-l] = W[l]: then tokens in order meet matrices in order
    padded = torch.nn.functional.pad(x, (0, 0, lags - 1, 0))
    # windows[b, t] = tokens t-lags+1 … t, as one row (batch, n, lags*dim), no copy
    windows = padded.unfold(1, lags, 1).mT
    e = torch.zeros_like(x)
    for first in range(0, n, lags):  # lags first … first + m - 1 reach rows first …
        m = min(lags, n - first)
        rows = windows[:, : n - first, lags - m :].reshape(batch, n - first, m * dim)
        part = rows @ reverse[n - first - m : n - first].reshape(m * dim, dim)
        e = e + torch.nn.functional.pad(part, (0, 0, first, 0))
    return e


def _filter(v: Tensor, table: Tensor) -> Tensor:
    """e_t = sum_l table[l] * v_{t-l}: a causal filter for each channel."""
    n = v.shape[1]
    if v.numel() == 0:
        return v
    if n <= DIRECT and table.shape[1] == 1:
        t = torch.arange(n, device=v.device)
        lag = (t[:, None] - t).clamp(min=0)
        return table[lag, 0].tril() @ v  # one (n, n) Toeplitz matrix for all channels
    spectrum = torch.fft.rfft(table, 2 * n, dim=0) * torch.fft.rfft(v, 2 * n, dim=1)
    return torch.fft.irfft(spectrum, 2 * n, dim=1)[:, :n]
