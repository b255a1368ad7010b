"""How fast each head of each layer forgets: the decay rates s, lambda = exp(-s)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from attnlab.contract import InputError


def base_slopes(heads: int) -> Float[np.ndarray, "heads"]:
    """ALiBi's rule, equation (3): s_i = 2^(-8(i+1)/h) for h a power of two.

    Other head counts take the slopes of the power of two c below, then every other one of 2c.
    Raises InputError for heads < 1.
    """
    if heads < 1:
        raise InputError(f"heads must be at least 1, but is {heads}")
    power = 1 << (heads.bit_length() - 1)  # the largest power of two <= heads
    if power == heads:
        return 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)
    return np.concatenate([base_slopes(power), base_slopes(2 * power)[0::2][: heads - power]])


def slopes(heads: int, layer: int, num_layers: int) -> Float[np.ndarray, "heads"]:
    """The decay rates of one layer, equation (4): s_i * (1 - l/(L-1) + 1e-5), l = 0 … L-1.

    float64, positive; the first layer forgets fastest, the last keeps 1e-5 of its rate. Source:
    Qin et al. 2024 as coded; the paper's text has a rate linear in the head instead. Raises
    InputError for num_layers < 2 (the factor divides by L-1) and for a layer outside 0 … L-1.
    """
    if num_layers < 2:
        raise InputError(f"num_layers must be at least 2, but is {num_layers}")
    if not 0 <= layer < num_layers:
        raise InputError(f"layer must be 0 to {num_layers - 1}, but is {layer}")
    return base_slopes(heads) * (1 - layer / (num_layers - 1) + 1e-5)
