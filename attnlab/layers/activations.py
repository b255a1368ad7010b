"""Activations for NumPy arrays and torch tensors alike; large arguments raise no warning."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.checks import is_tensor


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), computed from exp(-|x|), which cannot overflow."""
    if is_tensor(x):
        return x.sigmoid()
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def silu(x: Any) -> Any:
    """x sigmoid(x), also called swish (Elfwing et al. 2017, arXiv 1702.03118)."""
    if is_tensor(x):
        import torch

        return torch.nn.functional.silu(x)
    return x * sigmoid(x)
