"""A small transformer encoder that classifies a text from its [CLS] token.

Pre-norm blocks of multi-head self-attention and a GELU feed-forward part, sinusoidal positions.
Sources: Vaswani et al., "Attention is all you need", 2017; pre-norm: Xiong et al., 2020; [CLS]:
Devlin et al., "BERT", 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnlab.models.classifier import Rule, Trace
from attnlab.models.propagation import activate, constant, normalise
from attnlab.models.sequence import sinusoids
from attnlab.models.words import CLS, Vocabulary, WordClassifier, require_tokens


@dataclass(frozen=True)
class Configuration:
    """Sizes. dim of a head is width / heads."""

    width: int = 48
    layers: int = 2
    heads: int = 4
    hidden: int = 96  # of the feed-forward part
    dropout: float = 0.4


class Attended(NamedTuple):
    """What a block's attention wrote, and how."""

    out: Float[Tensor, "batch n width"]
    weights: Float[Tensor, "batch heads n n"]
    values: Float[Tensor, "batch heads n width"]


class SelfAttention(nn.Module):
    """Multi-head self-attention over unmasked keys, on a fused and on a readable path."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads = {heads}")
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)

    def split(self, x: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch heads n dim"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Float[Tensor, "batch n width"], mask: Bool[Tensor, "batch n"]) -> Tensor:
        q, k, v = (self.split(f(x)) for f in (self.query, self.key, self.value))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        return self.output(out.transpose(1, 2).flatten(2))

    def readable(self, x: Tensor, mask: Tensor, rule: Rule, keep: Tensor | None) -> Attended:
        """The same with weights and values; tokens outside `keep` have value vectors of zero."""
        q, k, v = (self.split(f(x)) for f in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (batch, heads, n, n)
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        weights = constant(scores.softmax(-1), rule)
        if keep is not None:
            v = v * keep[:, None, :, None]
        projection = self.output.weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        values = v @ projection  # (heads, dim, width) each: (batch, heads, n, width)
        return Attended((weights @ values).sum(1) + self.output.bias, weights, values)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, c: Configuration) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.attention = SelfAttention(c.width, c.heads)
        self.up, self.gelu = nn.Linear(c.width, c.hidden), nn.GELU()
        self.down, self.dropout = nn.Linear(c.hidden, c.width), nn.Dropout(c.dropout)

    def forward(self, x: Float[Tensor, "batch n width"], mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.down(self.gelu(self.up(self.feed_forward_norm(x)))))

    def readable(self, x: Tensor, mask: Tensor, rule: Rule, keep: Tensor | None = None) -> Attended:
        """What leaves the block, with its attention's weights and values."""
        read = self.attention.readable(normalise(self.attention_norm, x, rule), mask, rule, keep)
        x = x + read.out
        hidden = activate(self.gelu, self.up(normalise(self.feed_forward_norm, x, rule)), rule)
        return read._replace(out=x + self.down(hidden))


def read_blocks(
    blocks: Iterable[Any], embedded: Tensor, mask: Tensor, rule: Rule
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights and values of each block, and the states that enter it and leave the last: see `Trace`."""
    hidden, weights, values = [embedded], [], []
    for block in blocks:
        read = block.readable(hidden[-1], mask, rule)
        hidden.append(read.out)
        weights.append(read.weights)
        values.append(read.values)
    return weights, values, hidden


class TextTransformer(WordClassifier):
    """Reads words behind a [CLS] token, whose last state is decoded."""

    kind = "transformer"
    leading = (CLS,)
    attention_map = (
        "the softmax weights of each block's heads; row 0 is what the [CLS] token reads from"
    )

    def __init__(
        self,
        vocabulary: Vocabulary,
        labels: Sequence[str],
        configuration: Configuration | None = None,
    ) -> None:
        super().__init__(vocabulary, labels)
        c = self.configuration = configuration or Configuration()
        self.layers = c.layers
        self.embedding = nn.Embedding(len(vocabulary), c.width, padding_idx=self.pad_id)
        self.position_scale = nn.Parameter(torch.tensor(0.1))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width)
        self.decoder = nn.Linear(c.width, len(self.labels))
        self.dropout = nn.Dropout(c.dropout)

    def embed(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "batch n width"]:
        words = self.embedding(ids)
        places = sinusoids(ids.shape[1], self.configuration.width).to(words)
        return words + self.position_scale * places

    def forward(self, embedded: Tensor, mask: Tensor) -> Float[Tensor, "batch classes"]:
        require_tokens(mask)
        x = self.dropout(embedded)
        for block in self.blocks:
            x = block(x, mask)
        return self.decoder(self.norm(x[:, 0]))

    def trace(self, embedded: Tensor, mask: Tensor, *, rule: Rule = "gradient") -> Trace:
        require_tokens(mask)
        weights, values, hidden = read_blocks(self.blocks, embedded, mask, rule)
        logits = self.decoder(normalise(self.norm, hidden[-1][:, 0], rule))
        return Trace(logits, weights, values, hidden)

    def block(
        self, layer: int, hidden: Tensor, mask: Tensor, *, keep: Tensor | None = None
    ) -> Float[Tensor, "batch n width"]:
        return self.blocks[layer].readable(hidden, mask, "gradient", keep).out
