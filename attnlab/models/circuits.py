"""A tiny causal transformer with nothing hidden, and trained weights for each circuit task.

Attention only (or with feed-forward parts), pre-norm, learned positions, no biases in attention: what
a head adds to the residual stream is its value-weighted sum times its own slice of the output
matrix, and the sum over heads is all that a layer adds. Source of the design: Elhage et al., "A
mathematical framework for transformer circuits", 2021.

    model = load("retrieval")                       # also induction, ioi, greater_than, docstring
    task = model.task(rows=200)                     # prompts with and without the behaviour
    model.accuracy(task)                            # share of answers that are right
    streams = record(model, prompts)                # (rows, layers*heads, width): head outputs
    effect = ablation(model, task, "flatten")       # (layers, heads): what each head is worth

    state = model.prefill(model.encode("k3 v7 k5 v1 k3")[:-1])
    logits, rows, state = model.step(3, state)      # rows[layer][head]: attention over the keys
    logits, rows, state = model.step(3, state, masked_heads=[(1, 0)])

`python -m attnlab.models.circuits train` trains the shipped weights anew; `… report` prints what
they reach.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.datasets import circuit_tasks
from attnlab.datasets.circuit_tasks import CircuitTask

Heads = Collection[tuple[int, int]]  # (layer, head), both from 0
Lesion = Literal["flatten", "zero", "mean"]
LOSS_EVERY = 20  # steps of training in one number of the kept losses


@dataclass(frozen=True)
class Configuration:
    """Sizes and vocabulary. The width of a head is width / heads; hidden = 0 is attention only."""

    task: str
    vocabulary: tuple[str, ...]
    context: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 0


class State(NamedTuple):
    """What a decoder keeps: keys and values a layer, and how many tokens it has read."""

    keys: tuple[Float[Tensor, "1 heads n dim"], ...]
    values: tuple[Float[Tensor, "1 heads n dim"], ...]
    read: int


class Trace(NamedTuple):
    """What happened inside a forward pass.

    logits   (batch, n, vocabulary)
    weights  (batch, layers, heads, n, n) attention, rows summing to 1
    heads    (batch, layers, heads, n, width) what each head adds to the residual stream
    mlps     (batch, layers, n, width) what each feed-forward part adds; 0 without one
    residual (batch, layers + 1, n, width) what enters each layer, and what leaves the last
    """

    logits: Float[Tensor, "batch n vocabulary"]
    weights: Float[Tensor, "batch layers heads n n"]
    heads: Float[Tensor, "batch layers heads n width"]
    mlps: Float[Tensor, "batch layers n width"]
    residual: Float[Tensor, "batch layers+1 n width"]


class Layer(nn.Module):
    """x + sum of the heads(norm(x)); then, with hidden > 0, x + mlp(norm(x))."""

    def __init__(self, c: Configuration) -> None:
        super().__init__()
        self.count = c.heads
        self.norm = nn.LayerNorm(c.width)
        self.query, self.key, self.value, self.output = (
            nn.Linear(c.width, c.width, bias=False) for _ in range(4)
        )
        self.mlp: nn.Sequential | None = None
        if c.hidden:
            up, down = nn.Linear(c.width, c.hidden), nn.Linear(c.hidden, c.width)
            self.mlp = nn.Sequential(nn.LayerNorm(c.width), up, nn.GELU(), down)

    def qkv(self, x: Float[Tensor, "batch n width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads, n, dim)."""
        h = self.norm(x)
        made = (part(h) for part in (self.query, self.key, self.value))
        q, k, v = (p.unflatten(-1, (self.count, -1)).transpose(1, 2) for p in made)
        return q, k, v

    def written(self, o: Float[Tensor, "batch heads n dim"]) -> Float[Tensor, "b heads n width"]:
        """What each head's weighted sum adds to the residual stream: its slice of the output matrix."""
        slices = self.output.weight.unflatten(1, (self.count, -1))  # (width, heads, dim)
        return torch.einsum("bhnd,whd->bhnw", o, slices)

    def feed_forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) if self.mlp is None else self.mlp(x)


class CircuitTransformer(nn.Module):
    """Predicts the next word of a circuit task's prompts. `load(name)` gives a trained one."""

    def __init__(self, configuration: Configuration, seed: int = 0) -> None:
        """Initial weights follow from the seed. ValueError where heads do not divide the width."""
        super().__init__()
        c = self.configuration = configuration
        if c.width % c.heads:
            raise ValueError(f"width {c.width} is no multiple of heads {c.heads}")
        self.ids = {word: i for i, word in enumerate(c.vocabulary)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(len(c.vocabulary), c.width)
            self.place = nn.Parameter(torch.empty(c.context, c.width))
            self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
            self.norm = nn.LayerNorm(c.width)
            self.head = nn.Linear(c.width, len(c.vocabulary), bias=False)
            for weight in (self.embedding.weight, self.place):
                nn.init.normal_(weight, std=0.3)

    # --- words -------------------------------------------------------------------------------

    def encode(self, text: str) -> Int[np.ndarray, "n"]:
        """Ids of words separated by blanks; a word that is not known is read letter by letter where
        that works ("1732" is four digits). ValueError for any other word, and for an empty text."""
        found: list[int] = []
        for word in text.split():
            parts = [word] if word in self.ids else list(word)
            if not all(part in self.ids for part in parts):
                close = difflib.get_close_matches(word, self.ids, n=3)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                raise ValueError(f"{word!r} is no word of task {self.configuration.task}{hint}")
            found += [self.ids[part] for part in parts]
        if not found:
            raise ValueError("the text has no words")
        return np.array(found)

    def tokens(self, text: str) -> Int[np.ndarray, "n"]:
        """The ids of a text: `encode` under the name that needle tests call."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The words of ids, with blanks between them."""
        return " ".join(self.configuration.vocabulary[int(i)] for i in ids)

    # --- the whole sequence ------------------------------------------------------------------

    def forward(
        self, ids: Int[Tensor, "batch n"], masked_heads: Heads = ()
    ) -> Float[Tensor, "batch n vocabulary"]:
        """Logits of the next token at every place.

        masked_heads attend uniformly to all they may see, at every place. ValueError for ids
        longer than the context and for heads that do not exist.
        """
        ids = torch.as_tensor(ids)
        masked = self._masked(masked_heads)
        x = self._embed(ids, 0)
        for layer, part in enumerate(self.layers):
            q, k, v = part.qkv(x)
            if layer in masked:  # queries of 0 give equal scores
                q = q.clone()
                q[:, masked[layer]] = 0
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (batch, heads, n, dim)
            x = x + part.output(o.transpose(1, 2).flatten(2))
            if part.mlp is not None:
                x = x + part.mlp(x)
        return self.head(self.norm(x))

    def trace(self, ids: Int[Tensor, "batch n"], edit: Edit | None = None) -> Trace:
        """The same logits by the readable path, with all that happened inside.

        edit(layer, weights, written) -> written may replace what the heads of a layer add:
        weights (batch, heads, n, n), written (batch, heads, n, width).
        """
        x = self._embed(torch.as_tensor(ids), 0)
        seen: list[tuple[Tensor, Tensor, Tensor]] = []
        residual = [x]
        for layer, part in enumerate(self.layers):
            q, k, v = part.qkv(x)
            A = _weights(q, k)
            written = part.written(A @ v)
            if edit is not None:
                written = edit(layer, A, written)
            x = x + written.sum(1)
            added = part.feed_forward(x)
            x = x + added
            seen.append((A, written, added))
            residual.append(x)
        weights, heads, mlps = (torch.stack(part, 1) for part in zip(*seen))
        return Trace(self.head(self.norm(x)), weights, heads, mlps, torch.stack(residual, 1))

    # --- one token at a time -----------------------------------------------------------------

    def prefill(self, ids: Sequence[int] | np.ndarray, masked_heads: Heads = ()) -> State:
        """Read a prompt (or none of it) with fused attention.

        The paper's test masks heads while decoding only: masked_heads are for other questions.
        """
        c = self.configuration
        empty = torch.zeros(1, c.heads, 0, c.width // c.heads)
        state = State((empty,) * c.layers, (empty,) * c.layers, 0)
        masked = self._masked(masked_heads)
        return self._read(ids, state, masked, attends=False)[2] if len(ids) else state

    def step(
        self, token: int, state: State, masked_heads: Heads = ()
    ) -> tuple[Float[np.ndarray, "vocabulary"], Float[np.ndarray, "layers heads keys"], State]:
        """Read one token: logits of the next, each head's attention over all keys, the new state.

        masked_heads attend uniformly in this step (their scores become 0). The state is not
        changed. ValueError beyond the context and for heads that do not exist.
        """
        masked = self._masked(masked_heads)
        logits, rows, state = self._read([int(token)], state, masked, attends=True)
        return logits.numpy(), np.stack([r.numpy() for r in rows]), state

    def _read(
        self, ids: Sequence[int] | np.ndarray, state: State, masked: dict, *, attends: bool
    ) -> tuple[Tensor, list[Tensor], State]:
        keys, values, rows = [], [], []
        with torch.no_grad():
            x = self._embed(torch.as_tensor(np.asarray(ids))[None], state.read)
            for layer, part in enumerate(self.layers):
                q, k, v = part.qkv(x)
                k = torch.cat([state.keys[layer], k], 2)  # (1, heads, read + new, dim)
                v = torch.cat([state.values[layer], v], 2)
                if layer in masked:
                    q[:, masked[layer]] = 0
                if attends:
                    A = _weights(q, k)
                    rows.append(A[0, :, -1])
                    o = A @ v
                else:  # only a whole prompt is read without its weights
                    o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + part.output(o.transpose(1, 2).flatten(2))
                x = x + part.feed_forward(x)
                keys.append(k)
                values.append(v)
            logits = self.head(self.norm(x[0, -1]))
        return logits, rows, State(tuple(keys), tuple(values), state.read + len(ids))

    # --- tasks -------------------------------------------------------------------------------

    def task(self, rows: int, seed: int = 1) -> CircuitTask:
        """New prompts of the task that the model was trained on."""
        return circuit_tasks.task(self.configuration.task, rows, seed)

    def answers(
        self, prompts: Int[np.ndarray, "rows n"], masked_heads: Heads = ()
    ) -> Int[np.ndarray, "rows"]:
        """The likeliest next token after each prompt."""
        with torch.no_grad():
            return self(torch.as_tensor(prompts), masked_heads)[:, -1].argmax(-1).numpy()

    def accuracy(self, task: CircuitTask, masked_heads: Heads = ()) -> float:
        """Share of the task's positives whose likeliest next token is an allowed one."""
        return _right(self.answers(task.positives, masked_heads), task)

    def _embed(self, ids: Int[Tensor, "batch n"], start: int) -> Tensor:
        stop = start + ids.shape[1]
        if stop > self.configuration.context:
            limit = self.configuration.context
            raise ValueError(f"{stop} tokens, but positions were learned up to {limit}")
        return self.embedding(ids) + self.place[start:stop]

    def _masked(self, heads: Heads) -> dict[int, list[int]]:
        c = self.configuration
        found: dict[int, list[int]] = {}
        for layer, head in heads:
            if not (0 <= layer < c.layers and 0 <= head < c.heads):
                raise ValueError(
                    f"head ({layer}, {head}) does not exist: {c.layers} layers of {c.heads} heads"
                )
            found.setdefault(layer, []).append(head)
        return found


Edit = Callable[[int, Tensor, Tensor], Tensor]


def _weights(
    q: Float[Tensor, "batch heads n dim"], k: Float[Tensor, "batch heads keys dim"]
) -> Float[Tensor, "batch heads n keys"]:
    """Causal softmax attention; the last query stands at the last key."""
    n, keys = q.shape[2], k.shape[2]
    S = q @ k.mT / q.shape[3] ** 0.5
    future = torch.ones(n, keys, dtype=torch.bool).triu(keys - n + 1)
    return S.masked_fill(future, -torch.inf).softmax(-1)


def record(
    model: CircuitTransformer,
    prompts: Int[np.ndarray, "rows n"],
    *,
    at: Literal["mean", "last"] = "mean",
    mlps: bool = False,
) -> Float[np.ndarray, "rows columns width"]:
    """What each head adds to the residual stream while the model reads each prompt, float32.

    Columns are L0H0, L0H1, …, L1H0, …; with mlps=True each layer's feed-forward part follows its
    heads as one more column. at: the mean over token positions, or the last position.
    """
    with torch.no_grad():
        seen = model.trace(torch.as_tensor(prompts))
    parts = torch.cat([seen.heads, seen.mlps[:, :, None]], 2) if mlps else seen.heads
    parts = parts[..., -1, :] if at == "last" else parts.mean(-2)  # (rows, layers, ·, width)
    return np.ascontiguousarray(parts.flatten(1, 2).numpy())


def ablation(
    model: CircuitTransformer, task: CircuitTask, lesion: Lesion = "mean"
) -> Float[np.ndarray, "layers heads"]:
    """How much accuracy each head is worth: accuracy with all heads minus accuracy without it.

    flatten: the head attends uniformly; zero: it adds nothing; mean: it adds, at each position, its
    average over the task's negatives (what it says when the behaviour cannot occur).
    """
    c, ids = model.configuration, torch.as_tensor(task.positives)
    whole, worth = model.accuracy(task), np.empty((model.configuration.layers, c.heads))
    with torch.no_grad():
        usual = model.trace(torch.as_tensor(task.negatives)).heads.mean(0)  # (layers, heads, n, w)
        for layer, head in np.ndindex(worth.shape):
            if lesion == "flatten":
                left = model.accuracy(task, [(layer, head)])
            else:
                instead = usual[layer, head] if lesion == "mean" else torch.zeros(())

                def edit(at: int, _: Tensor, written: Tensor) -> Tensor:
                    if at == layer:  # noqa: B023 -- called before the loop goes on
                        written[:, head] = instead  # noqa: B023
                    return written

                left = _right(model.trace(ids, edit).logits[:, -1].argmax(-1).numpy(), task)
            worth[layer, head] = whole - left
    return worth


def _right(answers: Int[np.ndarray, "rows"], task: CircuitTask) -> float:
    return float(task.allowed[np.arange(len(answers)), answers].mean())


# --- weights ---------------------------------------------------------------------------------


def save(
    models: Iterable[CircuitTransformer],
    folder: str | Path,
    losses: Mapping[str, Float[np.ndarray, "points"]] | None = None,
) -> Path:
    """Write weights.npz (float16) with all the models; what `load` reads.

    losses: the training loss of each task, one number every LOSS_EVERY steps; what `losses` reads.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, curve in (losses or {}).items():
        arrays[f"{name}/losses"] = np.asarray(curve, np.float16)
    for model in models:
        name = model.configuration.task
        arrays[f"{name}/configuration"] = np.array(json.dumps(asdict(model.configuration)))
        for key, weight in model.state_dict().items():
            arrays[f"{name}/{key}"] = weight.detach().numpy().astype(np.float16)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "weights.npz", **arrays)  # type: ignore[arg-type]
    return folder / "weights.npz"


def shipped() -> tuple[str, ...]:
    """The tasks for which trained weights ship."""
    return tuple(circuit_tasks.TASKS)


def load(name: str, folder: str | Path | None = None) -> CircuitTransformer:
    """The trained model of a task, float32, in evaluation mode; by default the one that ships.

    ValueError for an unknown name, FileNotFoundError where the folder has no weights.npz.
    """
    with np.load(_weights_file(folder), allow_pickle=False) as arrays:
        prefixes = {key.split("/")[0] for key in arrays.files}
        if name not in prefixes:
            raise ValueError(f"model must be one of {', '.join(sorted(prefixes))}, not {name!r}")
        sizes = json.loads(str(arrays[f"{name}/configuration"]))
        sizes["vocabulary"] = tuple(sizes["vocabulary"])
        model = CircuitTransformer(Configuration(**sizes))
        own = [key for key in arrays.files if key.startswith(f"{name}/")]
        weights = {
            key.split("/", 1)[1]: torch.from_numpy(arrays[key].astype(np.float32))
            for key in own
            if not key.endswith(("/configuration", "/losses"))
        }
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def losses(name: str, folder: str | Path | None = None) -> Float[np.ndarray, "points"]:
    """The loss with which a shipped model was trained: nats an answer, means of LOSS_EVERY steps."""
    with np.load(_weights_file(folder), allow_pickle=False) as arrays:
        if f"{name}/losses" not in arrays.files:
            raise ValueError(f"no losses were kept for {name!r}")
        return arrays[f"{name}/losses"].astype(np.float64)


def _weights_file(folder: str | Path | None) -> Path:
    from attnlab.paths import data_dir

    return (Path(folder) if folder is not None else data_dir() / "circuit_models") / "weights.npz"


if __name__ == "__main__":
    from attnlab.models.circuit_training import main

    main()
