"""What the explanation laboratory asks of a model: a classifier of token sequences.

Every model that can be explained (the BiLSTM, the small transformer, BERT, a Hugging Face model)
is a `Classifier`. An attribution method sees nothing else of it:

    ids, mask = pad([model.encode(text) for text in texts], model.pad_id)
    embedded = model.embed(ids, mask)                # (batch, n, width), the leaf of all gradients
    logits = model(embedded, mask)                   # the fast path: fused kernels, no weights
    trace = model.trace(embedded, mask)              # the same logits, with what happened inside
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Rule = Literal["gradient", "lrp"]


@dataclass(frozen=True)
class Encoded:
    """A text as a model reads it.

    tokens: as shown to a reader, special ones included. ids: (n,) int64. special: (n,) bool, true
    for tokens that are not the user's ([CLS], [SEP] …). words: (n,) int, which whitespace-separated
    word of the text a token belongs to, -1 for special tokens.
    """

    tokens: tuple[str, ...]
    ids: Int[np.ndarray, "n"]
    special: Bool[np.ndarray, "n"]
    words: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.tokens)


class Trace(NamedTuple):
    """What happened inside a forward pass; every tensor is part of the graph.

    logits:  (batch, classes)
    weights: one (batch, heads, queries, n) a layer: the attention map, rows summing to 1 over
             unmasked keys. queries is n, or 1 where one query pools the sequence (the BiLSTM).
    values:  one (batch, heads, n, width) a layer: each token's value vector behind the head's slice
             of the output projection, so that sum_h sum_j weights[h,q,j] values[h,j] is what the
             attention layer writes (its bias aside).
    hidden:  layers + 1 of (batch, n, width): what enters each layer, and what leaves the last.
    """

    logits: Float[Tensor, "batch classes"]
    weights: list[Float[Tensor, "batch heads queries n"]]
    values: list[Float[Tensor, "batch heads n width"]]
    hidden: list[Float[Tensor, "batch n width"]]


class Classifier(nn.Module):
    """A model that reads tokens and gives one logit a class. Subclasses define the methods below.

    labels: the classes' names, in the order of the logits. pad_id: the token that stands for
    "nothing here" and whose embedding is the baseline. mask_id: the token that replaces a word
    under the replacement rule "mask"; None where the vocabulary has none. layers: attention layers.
    attention_map: one sentence on what `weights` are for this model.
    """

    labels: Sequence[str]
    pad_id: int
    mask_id: int | None
    layers: int
    attention_map: str

    @abstractmethod
    def encode(self, text: str) -> Encoded:
        """The tokens of a text. ValueError for a text without any token of its own."""

    @abstractmethod
    def embed(
        self, ids: Int[Tensor, "batch n"], mask: Bool[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n width"]:
        """What enters the first layer: word and position embeddings, normalised where the model does."""

    @abstractmethod
    def forward(
        self, embedded: Float[Tensor, "batch n width"], mask: Bool[Tensor, "batch n"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits by the fast path. An instance's logits do not depend on the others' or on padding."""

    @abstractmethod
    def trace(
        self,
        embedded: Float[Tensor, "batch n width"],
        mask: Bool[Tensor, "batch n"],
        *,
        rule: Rule = "gradient",
    ) -> Trace:
        """The same logits (within 1e-5) by the readable path, with weights, values and hidden states.

        rule="lrp" leaves every value as it is but changes the gradient to the one that makes
        gradient x input conserve relevance: attention weights, gates and the normalisers of layer
        norms count as constants, and an element-wise non-linearity f(x) as x times the constant
        f(x)/x (Arras et al., 2017; Ali et al., "XAI for Transformers", 2022).
        """

    @abstractmethod
    def block(
        self,
        layer: int,
        hidden: Float[Tensor, "batch n width"],
        mask: Bool[Tensor, "batch n"],
        *,
        keep: Bool[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """One layer from hidden[layer]; tokens outside `keep` take part with value vectors of zero."""

    def baseline(
        self, ids: Int[Tensor, "batch n"], mask: Bool[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n width"]:
        """The embedding of the padding token at every position, through the same embedding module."""
        return self.embed(torch.full_like(ids, self.pad_id), mask)


def pad(
    texts: Sequence[Encoded], pad_id: int
) -> tuple[Int[Tensor, "batch n"], Bool[Tensor, "batch n"]]:
    """Ids padded at the end to the longest text, and the mask that is true at real tokens."""
    if not texts:
        raise ValueError("texts must hold at least one text")
    longest = max(map(len, texts))
    ids = torch.full((len(texts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.as_tensor(text.ids)
        mask[row, : len(text)] = True
    return ids, mask
