"""Verbalization's search in PyTorch: windows of all documents times a bank of patterns."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import EXHIBIT
from .patterns import Bank, bank


@EXHIBIT.path
def search(
    attributions: Float[Tensor, "N"],
    offsets: Int[Tensor, "documents+1"] | None = None,
    *,
    filter_length: int = 5,
    metric: str = "mean",
    value: float = 0.4,
    sgn: str | None = "+",
    behaviour: str = "released",
) -> dict[str, Tensor]:
    """See the reference."""
    a = attributions.detach().double()
    if offsets is None:
        offsets = torch.tensor([0, len(a)], device=a.device)
    lengths = offsets.diff()
    document = torch.repeat_interleave(torch.arange(len(lengths), device=a.device), lengths)
    largest = torch.full_like(lengths, -torch.inf, dtype=a.dtype)
    largest = largest.scatter_reduce(0, document, a, "amax")
    a = (a / largest.abs()[document]).float().double()  # (1)
    least = thresholds(a, document, offsets, metric, value)[document]
    place = torch.arange(len(a), device=a.device) - offsets[document]
    left = lengths[document] - place + (behaviour == "corrected") - 1
    # Documents in order, tokens from last to first: hits then fall in order.
    order = offsets[document] + lengths[document] - 1 - place
    forbidden = {"+": a < 0, "-": a >= 0, None: torch.zeros_like(a, dtype=torch.bool)}[sgn]
    made: dict[str, Tensor] = {}
    for kind in ("conv", "span"):
        patterns = bank(kind, filter_length, sgn)
        mean, allowed = means(a, forbidden, patterns)
        low, tail = (torch.as_tensor(x, device=a.device) for x in (patterns.low, patterns.tail))
        inside = (place[:, None] >= low) & (left[:, None] >= tail)
        inside &= (lengths[document] + (behaviour == "corrected") > patterns.width)[:, None]
        hit = (mean > least[:, None]) & allowed & inside  # (N, patterns)
        i, p = hit[order].nonzero(as_tuple=True)
        i = order[i]
        steps, ones = (torch.as_tensor(x, device=a.device) for x in (patterns.steps, patterns.ones))
        J = place[i, None] + steps[p]
        padding = torch.arange(steps.shape[1], device=a.device) >= ones[p, None]
        counts = torch.zeros_like(lengths).index_add(0, document, hit.sum(1))
        made[f"{kind}_indices"] = J.masked_fill(padding, -1)
        made[f"{kind}_values"] = mean[i, p].to(attributions.dtype)
        made[f"{kind}_offsets"] = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return made


def thresholds(
    a: Tensor, document: Tensor, offsets: Tensor, metric: str, value: float
) -> Float[Tensor, "documents"]:
    """(2) of each document."""
    lengths = offsets.diff()
    zeros = torch.zeros_like(lengths, dtype=a.dtype)
    if metric == "mean":
        falling = a.sort(descending=True).indices
        order = falling[document[falling].sort(stable=True).indices]
        top = (lengths * value).long()
        place = torch.arange(len(a), device=a.device) - offsets[document]
        chosen = torch.where(place < top[document], a[order], 0.0)
        return zeros.index_add(0, document, chosen) / top
    mean = zeros.index_add(0, document, a) / lengths
    variance = zeros.index_add(0, document, (a - mean[document]) ** 2) / lengths
    return value * (variance if metric == "variance" else variance.sqrt())


def means(a: Tensor, forbidden: Tensor, patterns: Bank) -> tuple[Tensor, Tensor]:
    """(N, patterns): the mean under each pattern that begins at each token, and whether no token
    under it is forbidden. What lies beyond the end counts as 0."""
    width, columns = patterns.width, len(patterns.ones)
    steps, ones = (torch.as_tensor(x, device=a.device) for x in (patterns.steps, patterns.ones))
    used = torch.arange(steps.shape[1], device=a.device) < ones[:, None]
    filters = a.new_zeros(columns, width).scatter_add(1, steps, used.to(a))
    windows = torch.nn.functional.pad(torch.stack([a, forbidden.to(a)]), (0, width - 1))
    found = windows.unfold(1, width, 1) @ filters.T  # (2, N, patterns)
    return found[0] / ones, found[1] == 0
