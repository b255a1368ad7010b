"""The pieces of a forward pass whose gradient a rule may change, values untouched.

With rule="lrp" gradient x input conserves relevance: what multiplies (attention weights, gates,
normalisers) counts as a constant, and an element-wise non-linearity f(x) as x times the constant
f(x)/x. Sources: Arras et al., "Explaining recurrent neural network predictions in sentiment
analysis", 2017; Ali et al., "XAI for Transformers: better explanations through conservative
propagation", 2022.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.models.classifier import Rule


def constant(x: Float[Tensor, "..."], rule: Rule) -> Float[Tensor, "..."]:
    """A factor: under "lrp" no gradient flows through it."""
    return x.detach() if rule == "lrp" else x


def proportional(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """y, whose gradient is that of x times the constant y/x (0 where x is 0)."""
    ratio = torch.where(x == 0, 0, y / torch.where(x == 0, 1, x)).detach()
    return y.detach() + (x - x.detach()) * ratio  # the value is y to the last bit


def activate(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "..."], rule: Rule
) -> Float[Tensor, "..."]:
    """An element-wise non-linearity: function(x)."""
    return proportional(x, function(x)) if rule == "lrp" else function(x)


def normalise(norm: nn.Module, x: Float[Tensor, "... width"], rule: Rule) -> Tensor:
    """A layer norm or RMS norm; under "lrp" its divisor is a constant."""
    return divided(norm, x, norm(x)) if rule == "lrp" else norm(x)


def divided(norm: nn.Module, x: Float[Tensor, "... width"], y: Tensor) -> Tensor:
    """y = norm(x), whose gradient is that of a norm with a constant divisor.

    `norm` is a layer norm or (without `bias`) an RMS norm: a module with a `weight` and its epsilon
    as `eps` or `variance_epsilon`.
    """
    eps = getattr(norm, "eps", None)
    eps = getattr(norm, "variance_epsilon", None) if eps is None else eps
    eps = torch.finfo(x.dtype).eps if eps is None else eps  # nn.RMSNorm's default
    centred = x - x.mean(-1, keepdim=True) if hasattr(norm, "bias") else x
    scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt().detach()
    linear = centred * scale * norm.weight
    return y.detach() + linear - linear.detach()
