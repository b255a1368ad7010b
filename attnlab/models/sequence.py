"""A tiny transformer whose mixer is exchangeable, and the loop that trains it in seconds.

The mixer is the part of a block where tokens meet: attention, or what a paper puts in its place.
Two models that differ in nothing else are built and trained with the same seed:

    text = shakespeare()
    for mixer in (lambda: SelfAttention(48, heads=4), lambda: Lag(48, context=48)):
        model = TinyTransformer(len(text.symbols), width=48, mixer=mixer, context=48, seed=0)
        train(model, text_batches(text.train, batch=32, context=48), steps=300, lr=2e-3)
        print(evaluate(model, *consecutive_windows(text.validation, context=48)))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

IGNORED = -100  # label of a position that is not to be predicted

# batches(rng) -> (inputs, labels): one new batch, random by the generator alone.
Batches = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


class SelfAttention(nn.Module):
    """Softmax attention as a mixer: (batch, n, width) -> (batch, n, width)."""

    def __init__(self, width: int, heads: int = 4, *, causal: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}")
        self.heads, self.causal = heads, causal
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n width"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=self.causal
        )  # (batch, heads, n, dim)
        return self.output(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)); expand = 0 leaves the mlp out."""

    def __init__(self, width: int, mixer: nn.Module, expand: int = 4) -> None:
        super().__init__()
        self.mixer_norm, self.mixer = nn.LayerNorm(width), mixer
        self.mlp = None
        if expand:
            up, down = nn.Linear(width, expand * width), nn.Linear(expand * width, width)
            self.mlp = nn.Sequential(nn.LayerNorm(width), up, nn.GELU(), down)

    def forward(self, x: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n width"]:
        x = x + self.mixer(self.mixer_norm(x))
        return x if self.mlp is None else x + self.mlp(x)


class TinyTransformer(nn.Module):
    """Embedding, blocks around the mixers, a linear head.

    mixer() makes the mixer of one block, a module from (batch, n, width) to the same; it is called
    once a layer. positions: "learned" (up to `context` tokens), "sinusoid" (any length) or None.
    The initial weights, the mixers' included, follow from `seed` alone.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        mixer: Callable[[], nn.Module],
        context: int,
        layers: int = 2,
        outputs: int | None = None,
        positions: Literal["learned", "sinusoid"] | None = "learned",
        expand: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.context, self.positions = context, positions
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocabulary, width)
            nn.init.normal_(self.embedding.weight, std=0.5)
            if positions == "learned":
                self.place = nn.Parameter(0.1 * torch.randn(context, width))
            self.blocks = nn.Sequential(*(Block(width, mixer(), expand) for _ in range(layers)))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, outputs or vocabulary)

    def forward(self, ids: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n outputs"]:
        x = self.embedding(ids)  # (batch, n, width)
        n, width = x.shape[1:]
        if self.positions == "learned":
            if n > self.context:
                raise ValueError(f"n = {n} tokens, but positions were learned up to {self.context}")
            x = x + self.place[:n]
        elif self.positions == "sinusoid":
            x = x + sinusoids(n, width)
        return self.head(self.norm(self.blocks(x)))


def sinusoids(n: int, width: int) -> Float[Tensor, "n width"]:
    """Positions as sines and cosines, wavelengths 2π to 20000π (Vaswani et al., 2017)."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.arange(n, dtype=torch.float32)[:, None] * rates  # (n, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def train(
    model: nn.Module,
    batches: Batches,
    steps: int,
    lr: float,
    *,
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    warmup: int = 30,
    clip: float | None = 1.0,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train in place; returns the loss of every step.

    loss(model, inputs, labels) -> scalar; by default the cross-entropy of model(inputs) at all
    labels but IGNORED. progress(step, steps, loss) is called after each step. The batches and
    whatever the model draws follow from `seed`.
    """
    kinds: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
    }
    if optimizer not in kinds:
        raise ValueError(f"optimizer must be one of {', '.join(kinds)}, not {optimizer!r}")
    step_rule = kinds[optimizer](model.parameters(), lr=lr)
    measure = loss or cross_entropy
    rng, seen = np.random.default_rng(seed), []
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            for group in step_rule.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / max(warmup, 1))
            inputs, labels = (torch.as_tensor(a) for a in batches(rng))
            value = measure(model, inputs, labels)
            step_rule.zero_grad()
            value.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            step_rule.step()
            seen.append(value.item())
            if progress is not None:
                progress(step + 1, steps, seen[-1])
    model.eval()
    return seen


def cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean nats per label that is not IGNORED."""
    return F.cross_entropy(model(inputs).flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def evaluate(model: nn.Module, inputs: Any, labels: Any, batch: int = 64) -> float:
    """Mean nats per label over a whole set, read `batch` rows at a time."""
    inputs, labels = torch.as_tensor(inputs), torch.as_tensor(labels)
    total, counted = 0.0, 0
    with torch.inference_mode():
        for x, y in zip(inputs.split(batch), labels.split(batch)):
            count = int((y != IGNORED).sum())
            if count:
                total += cross_entropy(model, x, y).item() * count
                counted += count
    if not counted:
        raise ValueError("nothing to evaluate: every label is IGNORED")
    return total / counted


def accuracy(model: nn.Module, inputs: Any, labels: Any, batch: int = 64) -> float:
    """Share of the labels, IGNORED ones aside, that the likeliest output hits."""
    inputs, labels = torch.as_tensor(inputs), torch.as_tensor(labels)
    with torch.inference_mode():
        guesses = torch.cat([model(x).argmax(-1) for x in inputs.split(batch)])
    counted = labels != IGNORED
    return (guesses == labels)[counted].float().mean().item()


def text_batches(ids: Int[np.ndarray, "n"], batch: int, context: int) -> Batches:
    """Batches of random windows of a text; the label at a position is the next token."""
    if len(ids) <= context:
        raise ValueError(f"the text has {len(ids)} tokens, a window needs {context + 1}")

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        starts = rng.integers(len(ids) - context, size=(batch, 1))
        window = ids[starts + np.arange(context + 1)]  # (batch, context + 1)
        return window[:, :-1], window[:, 1:]

    return draw


def consecutive_windows(
    ids: Int[np.ndarray, "n"], context: int
) -> tuple[Int[np.ndarray, "windows context"], Int[np.ndarray, "windows context"]]:
    """A text cut into windows one after the other; an incomplete rest is dropped."""
    count = (len(ids) - 1) // context
    if not count:
        raise ValueError(f"the text has {len(ids)} tokens, a window needs {context + 1}")
    used = count * context
    return ids[:used].reshape(count, context), ids[1 : used + 1].reshape(count, context)
