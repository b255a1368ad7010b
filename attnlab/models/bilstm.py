"""A bidirectional LSTM whose states one additive attention pools.

The classifier of Neely et al., "A song of (dis)agreement", 2022, equation (7):

    u_t = tanh(W1 h_t + b1),   s_t = w2·u_t,   alpha = softmax(s),   c = sum_t alpha_t h_t

and a linear decoder of c. Additive attention: Bahdanau, Cho & Bengio, 2015; LSTM: Hochreiter &
Schmidhuber, 1997, in PyTorch's convention (gates i, f, g, o).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attnlab.models.classifier import Rule, Trace
from attnlab.models.propagation import activate, constant
from attnlab.models.words import Vocabulary, WordClassifier, require_tokens


@dataclass(frozen=True)
class Configuration:
    """Sizes. The states have 2 * hidden components, one half a direction."""

    width: int = 48
    hidden: int = 32
    dropout: float = 0.5


class BiLSTM(WordClassifier):
    """Reads words in both directions and pools their states with one query."""

    kind = "bilstm"
    layers = 1
    attention_map = (
        "the additive attention alpha with which one learned query pools the BiLSTM's states "
        "(each of which has read the whole text)"
    )

    def __init__(
        self,
        vocabulary: Vocabulary,
        labels: Sequence[str],
        configuration: Configuration | None = None,
    ) -> None:
        super().__init__(vocabulary, labels)
        c = self.configuration = configuration or Configuration()
        self.embedding = nn.Embedding(len(vocabulary), c.width, padding_idx=self.pad_id)
        self.encoder = nn.LSTM(c.width, c.hidden, batch_first=True, bidirectional=True)
        self.alignment = nn.Linear(2 * c.hidden, c.hidden)  # W1, b1
        self.tanh = nn.Tanh()
        self.score = nn.Linear(c.hidden, 1, bias=False)  # w2
        self.decoder = nn.Linear(2 * c.hidden, len(self.labels))
        self.dropout = nn.Dropout(c.dropout)

    def embed(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "batch n width"]:
        return self.embedding(ids)

    def forward(self, embedded: Tensor, mask: Tensor) -> Float[Tensor, "batch classes"]:
        h = self.states(self.dropout(embedded), mask)
        context = self.attention(h, mask)[:, None] @ h  # (batch, 1, 2 hidden)
        return self.decoder(self.dropout(context.squeeze(1)))

    def trace(self, embedded: Tensor, mask: Tensor, *, rule: Rule = "gradient") -> Trace:
        h = self.states(embedded, mask, rule)
        weights = constant(self.attention(h, mask), rule)[:, None, None]  # (batch, 1, 1, n)
        values = h[:, None]
        context = (weights @ values).squeeze(1)  # (batch, 1, 2 hidden)
        return Trace(self.decoder(context.squeeze(1)), [weights], [values], [h, context])

    def block(
        self, layer: int, hidden: Tensor, mask: Tensor, *, keep: Tensor | None = None
    ) -> Float[Tensor, "batch 1 width"]:
        if layer:
            raise ValueError(f"layer {layer}: the BiLSTM has one attention layer, 0")
        values = hidden if keep is None else hidden * keep[..., None]
        return self.attention(hidden, mask)[:, None] @ values

    def attention(
        self, h: Float[Tensor, "batch n states"], mask: Bool[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"]:
        """alpha, equation (7)."""
        scores = self.score(self.tanh(self.alignment(h))).squeeze(-1)  # (batch, n)
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)

    def states(
        self,
        embedded: Float[Tensor, "batch n width"],
        mask: Bool[Tensor, "batch n"],
        rule: Rule = "gradient",
    ) -> Float[Tensor, "batch n states"]:
        """h, zero at masked tokens, which are skipped wherever they stand."""
        require_tokens(mask)
        read = self._unrolled if rule == "lrp" else self._fused
        if bool((mask[:, :-1] >= mask[:, 1:]).all()):
            return read(embedded, mask)
        order = mask.logical_not().to(torch.uint8).argsort(dim=1, stable=True)  # gaps to the end
        x = embedded.gather(1, order[..., None].expand_as(embedded))
        h = read(x, mask.gather(1, order))
        return h.gather(1, order.argsort(dim=1)[..., None].expand_as(h))

    def _fused(self, x: Tensor, mask: Tensor) -> Tensor:
        if bool(mask.all()):
            return self.encoder(x)[0]
        packed = pack_padded_sequence(x, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.encoder(packed)[0], True, total_length=x.shape[1])[0]

    def _unrolled(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same states, step by step, with the gradient of rule "lrp"."""
        directions = []
        for suffix, steps in (("", range(x.shape[1])), ("_reverse", range(x.shape[1])[::-1])):
            w_ih, w_hh, b_ih, b_hh = (
                getattr(self.encoder, f"{name}_l0{suffix}")
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            inputs = x @ w_ih.T + (b_ih + b_hh)  # (batch, n, 4 hidden)
            h = c = x.new_zeros(len(x), self.configuration.hidden)
            out = [h] * x.shape[1]
            for t in steps:
                i, f, g, o = (inputs[:, t] + h @ w_hh.T).chunk(4, dim=-1)
                i, f, o = (constant(torch.sigmoid(gate), "lrp") for gate in (i, f, o))
                here = mask[:, t, None]  # the backward pass begins at each text's own end
                c = here * (f * c + i * activate(torch.tanh, g, "lrp"))
                h = here * (o * activate(torch.tanh, c, "lrp"))
                out[t] = h
            directions.append(torch.stack(out, dim=1))
        return torch.cat(directions, dim=-1)
