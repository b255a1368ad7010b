"""The attention map of any mechanism whose output is linear in its values.

Fused, hashed, sparse and linear mechanisms never store a map, but if out_i = sum_j A[i, j] v_j then
A is what the output becomes when the values are unit vectors: value j is e_j, and coordinate j of
out_i is A[i, j]. That is the definition of the map here. Rows need not sum to 1 nor entries be
positive: a card's `attention_map` says what holds for its mechanism.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from attnlab import registry
from attnlab.contract import InputError


def effective_map(
    exhibit: str,
    inputs: dict[str, Any],
    operation: str | None = None,
    *,
    values: str = "v",
    output: str | None = None,
    backend: str = "numpy",
) -> Float[np.ndarray, "batch heads n keys"]:
    """The map A with output = A @ values, read off by as many calls as the values' width asks for.

    inputs: the operation's keywords; `values` names the array (batch, heads, keys, width) that is
    replaced, in chunks of `width` unit vectors. output: by default the operation's first. Raises
    InputError where the operation has no such array, or where its output is not linear in it.
    """
    card = registry.find(exhibit)
    op = card.operation(operation)
    given = inputs.get(values)
    if given is None or np.ndim(given) != 4:
        raise InputError(
            f"values must name an array (batch, heads, keys, width) of {card.name}.{op.name}, "
            f"but {values!r} {'is not given' if given is None else f'has shape {np.shape(given)}'}"
        )
    given = np.asarray(given)
    batch, heads, keys, width = given.shape

    def run(v: np.ndarray) -> np.ndarray:
        made = card.run(op.name, backend=backend, **inputs | {values: v})
        return np.asarray(made[0] if output is None else getattr(made, output))

    columns = []
    for first in range(0, keys, width):
        units = np.zeros((batch, heads, keys, width), given.dtype)
        for j in range(first, min(first + width, keys)):
            units[:, :, j, j - first] = 1
        columns.append(run(units)[..., : min(width, keys - first)])
    found = np.concatenate(columns, axis=-1)  # (batch, heads, n, keys)

    seen, told = run(given), found @ given
    if seen.shape != told.shape or not np.allclose(seen, told, rtol=1e-3, atol=1e-4):
        raise InputError(f"the output of {card.name}.{op.name} is not linear in {values}")
    return found
