"""Scan and snap in PyTorch: counted tokens instead of one-hot vectors, gradients by autograd."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from . import EXHIBIT


@EXHIBIT.path
def loss(
    x: Int[Tensor, "batch length"],
    label: Int[Tensor, "batch"],
    K1: Float[Tensor, "M M"],
    K2: Float[Tensor, "M M"],
    *,
    normalize: bool = True,
    attn_include_base_token: bool = False,
    residual: bool = False,
) -> dict[str, Tensor]:
    """See the reference."""
    keys, m = (x if attn_include_base_token else x[:, :-1]), x[:, -1]
    b = K2[m].gather(1, keys).softmax(-1)  # (batch, length - 1)
    u = torch.zeros(len(x), len(K1), dtype=K1.dtype, device=K1.device).scatter_add(1, keys, b)
    if residual:
        u = u.scatter_add(1, m[:, None], torch.ones_like(u[:, :1]))
    f = u / u.norm(dim=1, keepdim=True) if normalize else u
    return {"loss": cross_entropy(f @ K1.T, label)}


@EXHIBIT.path
def train(
    x: Int[Tensor, "steps batch length"],
    label: Int[Tensor, "steps batch"],
    fact_probs: Float[Tensor, "facts M"] | None = None,
    fact_last: Int[Tensor, "facts"] | None = None,
    *,
    M: int,
    lr_y: float = 1.0,
    lr_z: float = 1.0,
    momentum: float = 0.9,
    snapshot_steps: list[int] = [],  # noqa: B006 -- never changed
) -> dict[str, Tensor | None]:
    """See the reference."""
    dtype = torch.float64 if fact_probs is None else fact_probs.dtype
    K1, K2 = (torch.zeros(M, M, dtype=dtype, device=x.device, requires_grad=True) for _ in "12")
    sgd = torch.optim.SGD(
        [{"params": [K1], "lr": lr_y}, {"params": [K2], "lr": lr_z}], momentum=momentum
    )
    losses = torch.empty(len(x), dtype=dtype, device=x.device)
    kept = {}
    for step in range(len(x)):
        with torch.enable_grad():
            J = loss.__wrapped__(x[step], label[step], K1, K2)["loss"]  # type: ignore[attr-defined]
            sgd.zero_grad()
            J.backward()
        sgd.step()
        losses[step] = J.detach()
        if step in snapshot_steps:
            kept[step] = K1.detach().clone(), K2.detach().clone()
    shape = (len(snapshot_steps), M, M)
    empty = [losses.new_empty(0)]
    return {
        "losses": losses,
        "K1_snapshots": torch.cat([kept[s][0] for s in snapshot_steps] or empty).reshape(shape),
        "K2_snapshots": torch.cat([kept[s][1] for s in snapshot_steps] or empty).reshape(shape),
        "c": None if fact_probs is None else tilted(fact_probs, K2.detach()[fact_last]),
    }


@EXHIBIT.path
def population_train(
    fact_probs: Float[Tensor, "facts M"],
    fact_last: Int[Tensor, "facts"],
    fact_next: Int[Tensor, "facts"],
    *,
    eta_y: float = 1.0,
    eta_z: float = 1.0,
    steps: int,
) -> dict[str, Tensor]:
    """See the reference: all facts at once."""
    F, M = fact_probs.shape
    Y, Z = torch.zeros(2, M, M, dtype=fact_probs.dtype, device=fact_probs.device)
    history, losses = [], []
    fact = torch.arange(F, device=Y.device)
    for _ in range(steps):
        c = tilted(fact_probs, Z[fact_last])
        norm = c.norm(dim=1, keepdim=True)
        f = c / norm
        log_alpha = (f @ Y).log_softmax(1)
        r = -log_alpha.exp()
        r[fact, fact_next] += 1
        w = r @ Y.T
        w = (w - f * (f * w).sum(1, keepdim=True)) / norm
        dz = c * (w - (c * w).sum(1, keepdim=True)) / F
        Y = Y + eta_y / F * (f.T @ r)
        Z = Z.index_add(0, fact_last, eta_z * dz)
        history.append(c)
        losses.append(-log_alpha[fact, fact_next].mean())
    return {"Y": Y, "Z": Z, "c_history": torch.stack(history), "losses": torch.stack(losses)}


def tilted(P: Float[Tensor, "facts M"], z: Float[Tensor, "facts M"]) -> Float[Tensor, "facts M"]:
    """(6): P exp(z) / sum, by rows."""
    c = P * (z - z.amax(1, keepdim=True)).exp()
    return c / c.sum(1, keepdim=True)
