"""Maximum flow through a stack of attention maps.

Nodes are (layer, token). The source reads the top states with capacities `row`; state j of a map
passes to token k below with capacity map[j, k]; one token of the lowest layer is the sink.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def max_flow(
    row: Float[Tensor, "batch n"],
    maps: Sequence[Float[Tensor, "batch n n"]],
    mask: Bool[Tensor, "batch n"],
) -> Float[Tensor, "batch n"]:
    """The maximum flow to every token, each on its own, divided by the sum over the tokens.

    The first map is merged into the row: whoever reads state q reads what q attends to.
    """
    if maps:
        row = torch.einsum("bq,bqn->bn", row, maps[0])
    below = maps[1:]
    if not below:
        flows = row
    elif len(below) == 1:  # every path is source -> j -> t: no flow competes with another
        flows = torch.minimum(row[:, :, None], below[0]).sum(1)
    else:
        from attnlab.kernels.cpu.attention_graph import attention_flow

        flows = torch.zeros_like(row)
        for i, n in enumerate(mask.sum(1).tolist()):
            capacity = torch.zeros(1, len(maps), n, n, dtype=torch.float64)  # lowest layer first
            capacity[0, -1, 0] = row[i, :n]
            for layer, m in enumerate(reversed(below)):
                capacity[0, layer] = m[i, :n, :n]
            flows[i, :n] = torch.as_tensor(attention_flow(capacity.numpy())[0]).to(row)
    flows = flows * mask
    return flows / flows.sum(1, keepdim=True)
