"""Attributions read from attention: what it looks at, what it moves, and where that comes from.

Which queries matter depends on the model: one that classifies from [CLS] reads a single row, one that
averages reads all. `Reading` finds out by asking which of the last hidden states the target's logit
depends on. Where one learned query pools the text (the BiLSTM), its row is the only one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.contract import InputError
from attnlab.explain.flow import max_flow
from attnlab.explain.problem import Problem, choose
from attnlab.models.classifier import Trace

Scores = Float[Tensor, "batch n"]


class Reading(NamedTuple):
    """A trace, and for each layer how much each of its queries is read: (batch, queries), sums to 1."""

    trace: Trace
    queries: list[Float[Tensor, "batch queries"]]

    def rows(self, layer: int) -> Float[Tensor, "batch heads n"]:
        """The attention of the queries that are read, for every head."""
        return torch.einsum("bq,bhqn->bhn", self.queries[layer], self.trace.weights[layer].detach())


def read(problem: Problem) -> Reading:
    """Traces the model and finds the queries that its classification head reads.

    Raises PathsDiffer where the path that shows weights is not the model's own function.
    """
    trace = problem.trace()
    if not trace.weights:
        raise InputError(f"{type(problem.model).__name__} has no attention layer to read")
    top = trace.weights[-1]
    if top.shape[2] == 1:
        pooled = top.detach().mean(1)[:, 0]  # (batch, n): what the layers below are read by
    else:
        logit = choose(trace.logits, problem.target, "logit").sum()
        (grad,) = torch.autograd.grad(logit, trace.hidden[-1], retain_graph=True)
        read = (grad.abs().amax(-1) > 0) & problem.mask
        read = torch.where(read.any(1, keepdim=True), read, problem.mask)
        pooled = read / read.sum(1, keepdim=True)
    ones = pooled.new_ones(len(pooled), 1)
    return Reading(trace, [ones if w.shape[2] == 1 else pooled.to(w) for w in trace.weights])


def attention(problem: Problem, *, layer: int | None = None, head: int | None = None) -> Scores:
    """The attention weight of each token, of one layer and head or averaged over them.

    Averaged like this in Jain & Wallace, 2019, and Neely et al., 2022. Has no sign.
    """
    reading = read(problem)
    layers = range(len(reading.queries))
    for name, index, count in (
        ("layer", layer, len(layers)), ("head", head, reading.trace.weights[0].shape[1]),
    ):  # fmt: skip
        if index is not None and not 0 <= index < count:
            raise InputError(f"{name} must be from 0 to {count - 1}, but is {index}")
    chosen = [reading.rows(l) for l in (layers if layer is None else [layer])]
    rows = [r.mean(1) if head is None else r[:, head] for r in chosen]
    return torch.stack(rows).mean(0)


def attention_norm(problem: Problem) -> Scores:
    """|| sum_h alpha_h[q, j] f_h(x_j) ||, the mean over layers (Kobayashi, Kuribayashi, Yokoi & Inui, 2020).

    f_h(x_j) is token j's value behind the head's slice of the output projection: what attention
    moves, not only what it looks at. Has no sign.
    """
    trace, queries = read(problem)
    total = torch.zeros(problem.ids.shape).to(queries[0])
    for weights, values, share in zip(trace.weights, trace.values, queries):
        w, f = weights.detach(), values.detach()
        # |sum_h a_h f_h|^2 = sum_hg a_h a_g <f_h, f_g>: no (queries, n, width) tensor is needed
        gram = torch.einsum("bhnd,bgnd->bnhg", f, f)
        squares = torch.einsum("bhqn,bgqn,bnhg->bqn", w, w, gram).clamp(min=0)
        total += torch.einsum("bq,bqn->bn", share, squares.sqrt())
    return total / len(queries)


def with_residual(weights: Float[Tensor, "batch heads n n"]) -> Float[Tensor, "batch n n"]:
    """(mean_h A_h + I) / 2: the skip connection carries each token as much as attention does."""
    mixed = weights.detach().mean(1)
    return (mixed + torch.eye(mixed.shape[-1]).to(mixed)) / 2


def layer_maps(reading: Reading) -> tuple[Scores, list[Float[Tensor, "batch n n"]]]:
    """How much the head reads each top state, and the maps below it, the top layer's first."""
    weights = list(reading.trace.weights)
    if weights[-1].shape[2] == 1:  # one query pools: nothing of it is carried around the layer
        return reading.rows(-1).mean(1), [with_residual(w) for w in weights[-2::-1]]
    return reading.queries[-1], [with_residual(w) for w in weights[::-1]]


def rollout(problem: Problem) -> Scores:
    """Attention rollout (Abnar & Zuidema, 2020): products of (A + I) / 2 from the top layer down.

    Only the row that is read is followed, a vector times a matrix each layer, O(layers n^2).
    """
    row, maps = layer_maps(read(problem))
    for each in maps:
        row = torch.einsum("bq,bqn->bn", row, each)
    return row


def flow(problem: Problem) -> Scores:
    """Attention flow (Abnar & Zuidema, 2020): the maximum flow from what is read to each input token.

    Edges have the capacities (A + I) / 2; the flows are divided by their sum.
    """
    row, maps = layer_maps(read(problem))
    return max_flow(row, maps, problem.mask)


def value_zeroing(problem: Problem) -> Scores:
    """How far each layer's output moves when a token's value vector is zero (Mohebbi et al., 2023).

    C[q, j] = 1 - cos(output q, output q without the value of j), rows normalised, then multiplied
    through the layers as in rollout; what goes around the attention is in C already.
    """
    trace, queries = read(problem)
    n = problem.ids.shape[1]
    keep = ~torch.eye(n, dtype=torch.bool)[:, None]  # (n, 1, n): copy j lacks the value of token j
    row = queries[-1]
    for layer in reversed(range(len(queries))):
        entering, leaving = trace.hidden[layer].detach(), trace.hidden[layer + 1].detach()
        changes = []
        for part in problem.chunks(n):
            copies = part.stop - part.start
            with torch.no_grad():
                out = problem.model.block(
                    layer,
                    entering.repeat(copies, 1, 1),
                    problem.mask.repeat(copies, 1),
                    keep=keep[part].expand(copies, *problem.ids.shape).flatten(0, 1),
                ).unflatten(0, (copies, -1))  # (copies, batch, queries, width)
            changes.append(1 - torch.cosine_similarity(out, leaving, dim=-1))
        change = torch.cat(changes).permute(1, 2, 0).clamp(min=0)  # (batch, queries, n)
        change = change * problem.mask[:, None]
        change = change / change.sum(-1, keepdim=True).clamp(min=torch.finfo(change.dtype).tiny)
        row = torch.einsum("bq,bqn->bn", row, change)
    return row


def attention_gradient(problem: Problem) -> Scores:
    """Gradient-weighted attention (Chefer, Gur & Wolf, "Generic attention-model explainability", 2021).

    R <- R + mean_h (dF/dA * A)^+ R from the first layer on; of R, the row that is read. Has no sign.
    """
    trace, queries = read(problem)
    output = choose(trace.logits, problem.target, problem.output).sum()
    grads = torch.autograd.grad(output, trace.weights, materialize_grads=True)
    maps = [(g * w.detach()).clamp(min=0).mean(1) for g, w in zip(grads, trace.weights)]
    row = queries[-1]
    for each in reversed(maps):
        moved = torch.einsum("bq,bqn->bn", row, each)
        row = moved if each.shape[1] == 1 else row + moved
    return row
