"""A small causal transformer language model with trained weights: what lessons look into.

Four pre-norm blocks of multi-head attention with rotary positions and a SwiGLU feed-forward part,
one matrix for embedding and head, byte-pair tokens. It was trained on the reference text that ships
with Python; data/language_model/CARD.md tells how well it reads. Sources: Vaswani et al.,
"Attention is all you need", 2017; pre-norm: Xiong et al., 2020; rotary positions: Su et al.,
"RoFormer", 2021; SwiGLU: Shazeer, "GLU variants improve transformer", 2020; RMSNorm: Zhang &
Sennrich, "Root mean square layer normalization", 2019.

    model = load()
    model.loss("The if statement is used for conditional execution.")    # nats per byte
    arrays = model.attention_inputs(text, layer=1)                       # q, k, v of real heads

`python -m attnlab.models.language train` trains the shipped weights anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.models.tokenizer import Tokenizer

# attend(q, k, v) -> out, all (batch, heads, n, dim), causal. It may return a NumPy array.
Attend = Callable[[Tensor, Tensor, Tensor], Any]


@dataclass(frozen=True)
class Configuration:
    """Sizes of the model. dim of a head is width / heads."""

    vocabulary: int = 1024
    width: int = 128
    layers: int = 4
    heads: int = 4
    hidden: int = 256  # of the feed-forward part
    context: int = 256  # tokens per training window; longer texts can be read, less well
    dropout: float = 0.25


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √dim) v over the present and the past; (batch, heads, n, dim)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def rotate(x: Float[Tensor, "batch heads n dim"]) -> Float[Tensor, "batch heads n dim"]:
    """Rotary positions: turn (x_i, x_{i+dim/2}) at position t by the angle t · 10000^(-2i/dim)."""
    n, half = x.shape[-2], x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(n, device=x.device, dtype=torch.float32)[:, None] * rates  # (n, dim/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention; what attends is exchangeable, the projections are the model's."""

    def __init__(self, c: Configuration) -> None:
        super().__init__()
        self.heads = c.heads
        self.query = nn.Linear(c.width, c.width, bias=False)
        self.key = nn.Linear(c.width, c.width, bias=False)
        self.value = nn.Linear(c.width, c.width, bias=False)
        self.output = nn.Linear(c.width, c.width, bias=False)

    def qkv(self, x: Float[Tensor, "batch n width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both rotated) and values, each (batch, heads, n, dim)."""

        def split(t: Tensor) -> Tensor:
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        return rotate(split(self.query(x))), rotate(split(self.key(x))), split(self.value(x))

    def forward(self, x: Float[Tensor, "batch n width"], attend: Attend) -> Tensor:
        out = torch.as_tensor(attend(*self.qkv(x)), dtype=x.dtype)  # (batch, heads, n, dim)
        return self.output(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, c: Configuration) -> None:
        super().__init__()
        self.gate = nn.Linear(c.width, c.hidden, bias=False)
        self.up = nn.Linear(c.width, c.hidden, bias=False)
        self.down = nn.Linear(c.hidden, c.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, c: Configuration) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.RMSNorm(c.width), nn.RMSNorm(c.width)
        self.attention, self.feed_forward = Attention(c), FeedForward(c)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Float[Tensor, "batch n width"], attend: Attend) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), attend))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class LanguageModel(nn.Module):
    """Predicts the next token of a text; `load()` gives the trained one."""

    def __init__(self, tokenizer: Tokenizer, configuration: Configuration | None = None) -> None:
        super().__init__()
        c = replace(configuration or Configuration(), vocabulary=len(tokenizer))
        if c.width % (2 * c.heads):
            raise ValueError(f"width {c.width} is no multiple of 2 * heads = {2 * c.heads}")
        self.tokenizer, self.configuration = tokenizer, c
        self.embedding = nn.Embedding(c.vocabulary, c.width)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.width)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:  # what adds to the residual stream starts smaller, by depth
                adds = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * c.layers) ** 0.5 if adds else 0.02)

    def forward(
        self,
        ids: Int[Tensor, "batch n"] | Int[Tensor, "n"],
        attend: Attend | Mapping[int, Attend] | None = None,
    ) -> Float[Tensor, "... n vocabulary"]:
        """Logits of the next token at every position.

        attend: a causal attention to use in every layer, or in the layers it is given for
        ({1: f}); softmax attention elsewhere. Called with q, k, v of (batch, heads, n, dim).
        """
        ids = torch.as_tensor(ids)
        x = self.dropout(self.embedding(torch.atleast_2d(ids)))  # (batch, n, width)
        for layer, block in enumerate(self.blocks):
            x = block(x, _attend_in(layer, attend))
        logits = self.norm(x) @ self.embedding.weight.T  # (batch, n, vocabulary)
        return logits[0] if ids.ndim == 1 else logits

    def encode(self, text: str) -> Int[Tensor, "n"]:
        """Token ids of a text."""
        return torch.tensor(self.tokenizer.encode(text), dtype=torch.long)

    def decode(self, ids: Any) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(np.asarray(ids).tolist())

    def tokens(self, text: str) -> list[str]:
        """A short label for each token, for the axes of a plot."""
        return [self.tokenizer.label(i) for i in self.tokenizer.encode(text)]

    def loss(self, text: str, attend: Attend | Mapping[int, Attend] | None = None) -> float:
        """Nats per byte that the model pays for a text, its first token given.

        Read in windows of `context` tokens that overlap by half, so that all but the first
        tokens are predicted from at least half a context. ValueError under two tokens.
        """
        ids = self.encode(text)
        if len(ids) < 2:
            raise ValueError(f"loss needs a text of at least 2 tokens, this one has {len(ids)}")
        context, total = self.configuration.context, 0.0
        lengths = torch.tensor(self.tokenizer.lengths())
        with torch.inference_mode(), evaluating(self):
            done = 1  # tokens already paid for; the first is given
            while done < len(ids):
                start = max(0, done - context // 2)
                window = ids[start : start + context]
                logits = self(window[None, :-1], attend)[0, done - start - 1 :]  # (new, vocabulary)
                total += F.cross_entropy(logits, window[done - start :], reduction="sum").item()
                done = start + len(window)
        return total / int(lengths[ids[1:]].sum())

    def attention_inputs(
        self, text: str, layer: int, n: int | None = None
    ) -> dict[str, Float[np.ndarray, "1 heads n dim"]]:
        """Queries, keys and values as they enter attention in `layer` while the model reads `text`.

        n: how many tokens, None all; ValueError when the text has fewer.
        Float32, contiguous, q and k rotated by their positions.
        """
        if not 0 <= layer < len(self.blocks):
            raise ValueError(f"layer {layer} is not in 0..{len(self.blocks) - 1}")
        ids = self.encode(text)
        if n is not None and len(ids) < n:
            raise ValueError(f"n = {n} tokens, but the text has only {len(ids)}")
        q, k, v = self._inputs_by_layer(ids[:n])[layer]
        return {"q": _array(q), "k": _array(k), "v": _array(v)}

    def attention_weights(self, ids: Any) -> Float[np.ndarray, "layers heads n n"]:
        """What each head attends to: rows are readers and sum to 1, the future is 0."""
        weights = []
        for q, k, _ in self._inputs_by_layer(torch.as_tensor(ids)):
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (1, heads, n, n)
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            weights.append(scores.masked_fill(future, -torch.inf).softmax(-1)[0])
        return _array(torch.stack(weights))

    def continue_text(
        self, text: str, tokens: int = 40, *, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """The text that the model writes after `text`; temperature 0 takes the likeliest token."""
        ids, chance = self.encode(text), torch.Generator().manual_seed(seed)
        start = len(ids)
        with torch.inference_mode(), evaluating(self):
            for _ in range(tokens):
                logits = self(ids[-self.configuration.context :])[-1]
                if temperature > 0:
                    new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=chance)
                else:
                    new = logits.argmax(keepdim=True)
                ids = torch.cat([ids, new])
        return self.decode(ids[start:])

    def save(self, folder: str | Path) -> None:
        """Write weights.npz (float16) and vocabulary.json, what `load` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {k: w.detach().numpy().astype(np.float16) for k, w in self.state_dict().items()}
        sizes = np.array(json.dumps(asdict(self.configuration)))
        np.savez_compressed(folder / "weights.npz", configuration=sizes, **arrays)
        self.tokenizer.save(folder / "vocabulary.json")

    def _inputs_by_layer(self, ids: Int[Tensor, "n"]) -> list[tuple[Tensor, Tensor, Tensor]]:
        seen = []

        def record(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            seen.append((q, k, v))
            return causal_attention(q, k, v)

        with torch.no_grad(), evaluating(self):
            self(ids[None], record)
        return seen


class evaluating:
    """Within it a module is in evaluation mode (no dropout); afterwards as it was."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.before = self.module.training
        self.module.eval()

    def __exit__(self, *error: object) -> None:
        self.module.train(self.before)


def load(path: str | Path | None = None) -> LanguageModel:
    """The model saved in a folder, by default the one that ships; float32, in evaluation mode.

    FileNotFoundError when the folder lacks a file, ValueError when a file is not what it should be.
    """
    from attnlab.paths import data_dir

    folder = Path(path) if path is not None else data_dir() / "language_model"
    tokenizer = Tokenizer.load(folder / "vocabulary.json")
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        sizes = json.loads(str(arrays["configuration"]))
        names = [name for name in arrays.files if name != "configuration"]
        weights = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in names}
    model = LanguageModel(tokenizer, Configuration(**sizes))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{folder / 'weights.npz'}: {error}") from error
    return model.eval()


def _attend_in(layer: int, attend: Attend | Mapping[int, Attend] | None) -> Attend:
    if isinstance(attend, Mapping):
        return attend.get(layer, causal_attention)
    return attend or causal_attention


def _array(t: Tensor) -> np.ndarray:
    return np.ascontiguousarray(t.numpy(), dtype=np.float32)


def train(text: str, **options: Any) -> LanguageModel:
    """Train a model on a text; see `attnlab.models.training.train` for the options."""
    from attnlab.models.training import train as train_on

    return train_on(text, **options)


if __name__ == "__main__":
    from attnlab.models.training import main

    main()
