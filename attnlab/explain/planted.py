"""Models whose answer is known: which words they use is written down, so a method can be wrong.

Four readers of the same kind of text, each a logit for "yes" of known words:

    attended    attention singles the key word out and carries its value: attention is right
    unattended  words are summed; attention looks hard at decoys and moves nothing: attention is wrong
    either      two key words, one would do: min(1, sum). Gradients and leave-one-out see nothing
    both        two key words, neither does alone: max(0, sum - 1)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnlab.explain.attribute import explain
from attnlab.models.classifier import Classifier, Encoded, Rule, Trace
from attnlab.models.propagation import activate, constant

KINDS = ("attended", "unattended", "either", "both")
FILLERS = (
    "the", "a", "of", "and", "to", "it", "is", "on", "at", "with",
    "for", "from", "by", "this", "that", "one", "some", "here", "then", "as",
)  # fmt: skip
KEYS, DECOYS = ("gold", "jade", "ruby"), ("shout", "alarm", "siren")
PAD, MASK = "[PAD]", "[MASK]"
WORDS = (PAD, MASK, *FILLERS, *KEYS, *DECOYS)
SCORE, EVIDENCE, REST = 0, 1, slice(2, 6)  # what the components of an embedding mean


class Planted(Classifier):
    """A classifier built by hand: embeddings hold an attention score, the evidence, and noise."""

    labels = ("no", "yes")
    pad_id, mask_id, layers = 0, 1, 1
    attention_map = "softmax of the words' scores, written in by hand; one query pools the text"

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
        self.kind = kind
        table = torch.zeros(len(WORDS), 6)
        noise = np.random.default_rng(0).normal(0, 0.3, (len(WORDS) - 2, 4))
        table[2:, REST] = torch.as_tensor(noise, dtype=table.dtype)
        for word in KEYS:
            table[WORDS.index(word), EVIDENCE] = 1.0
            table[WORDS.index(word), SCORE] = 6.0 if kind == "attended" else 0.0
        for word in DECOYS:
            table[WORDS.index(word), SCORE] = 4.0 if kind == "unattended" else 0.0
        self.table = nn.Parameter(table, requires_grad=False)
        self.relu, self.second = nn.ReLU(), nn.ReLU()

    def encode(self, text: str) -> Encoded:
        words = tuple(text.split())
        if not words:
            raise ValueError(f"the text {text!r} has no word")
        ids = np.array([WORDS.index(w) if w in WORDS else 2 for w in words], dtype=np.int64)
        return Encoded(words, ids, np.zeros(len(words), bool), np.arange(len(words)))

    def embed(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "batch n width"]:
        return self.table[ids]

    def forward(self, embedded: Tensor, mask: Tensor) -> Float[Tensor, "batch classes"]:
        return self.trace(embedded, mask).logits

    def trace(self, embedded: Tensor, mask: Tensor, *, rule: Rule = "gradient") -> Trace:
        weights = constant(self._attend(embedded, mask), rule)[:, None, None]
        values = self._values(embedded)
        moved = weights[:, 0] @ values  # (batch, 1, width)
        summed = (embedded[..., EVIDENCE] * mask).sum(1)
        z = moved[:, 0, EVIDENCE] if self.kind == "attended" else summed
        if self.kind == "either":
            z = activate(self.relu, z, rule) - activate(self.second, z - 1, rule)
        elif self.kind == "both":
            z = activate(self.relu, z - 1, rule)
        logits = torch.stack([torch.zeros_like(z), 6 * z - 3], dim=-1)
        return Trace(logits, [weights], [values[:, None]], [embedded, moved])

    def block(
        self, layer: int, hidden: Tensor, mask: Tensor, *, keep: Tensor | None = None
    ) -> Float[Tensor, "batch 1 width"]:
        values = self._values(hidden)
        values = values if keep is None else values * keep[..., None]
        return self._attend(hidden, mask)[:, None] @ values

    def _attend(self, embedded: Tensor, mask: Tensor) -> Float[Tensor, "batch n"]:
        return embedded[..., SCORE].masked_fill(~mask, -torch.inf).softmax(-1)

    def _values(self, embedded: Tensor) -> Float[Tensor, "batch n width"]:
        return embedded if self.kind == "attended" else torch.zeros_like(embedded)


class Instance(NamedTuple):
    """A text for which a planted model says yes, and the words that make it."""

    text: str
    relevant: Bool[np.ndarray, "n"]


def instances(kind: str, count: int = 32, seed: int = 0) -> list[Instance]:
    """Random texts of 8 to 14 words: fillers, decoys, and the key words the kind needs."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    found = []
    for _ in range(count):
        keys = 1 if kind in ("attended", "unattended") else 2
        words = [
            *rng.choice(KEYS, keys, replace=False),
            *rng.choice(DECOYS, 2, replace=False),
            *rng.choice(FILLERS, rng.integers(5, 11)),
        ]
        words = [str(w) for w in rng.permutation(words)]
        found.append(Instance(" ".join(words), np.isin(words, KEYS)))
    return found


def precision(unsigned: Float[np.ndarray, "n"], relevant: Bool[np.ndarray, "n"]) -> float:
    """The share of the k = |relevant| best tokens that are relevant; of ties, the share expected."""
    k = int(relevant.sum())
    if not np.isfinite(unsigned).all() or not k:
        return float("nan")
    kth = np.sort(unsigned)[-k]
    sure, tied = unsigned > kth, unsigned == kth
    share = (k - sure.sum()) / tied.sum()
    return float(((sure & relevant).sum() + share * (tied & relevant).sum()) / k)


def recovery(
    methods: list[str], *, count: int = 32, seed: int = 0
) -> dict[str, dict[str, Float[np.ndarray, "texts"]]]:
    """How much of the known answer each method finds: [kind][method], `precision` of every text."""
    found = {}
    for kind in KINDS:
        asked = instances(kind, count, seed)
        done = explain(Planted(kind), [one.text for one in asked], methods, target="yes", seed=seed)
        found[kind] = {
            name: np.array(
                [precision(d.attributions[name].unsigned, a.relevant) for d, a in zip(done, asked)]
            )
            for name in done[0].attributions
        }
    return found
