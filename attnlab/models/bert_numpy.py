"""BERT's encoder in plain NumPy, to be read beside the paper; inference only.

Devlin et al., "BERT: pre-training of deep bidirectional transformers", 2019. A layer is

    x = LayerNorm(x + attention(x));   x = LayerNorm(x + W2 gelu(W1 x + b1) + b2)

with softmax(q kᵀ / √dim) v in each head. `attnlab.models.bert` is the same with gradients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import erf


@dataclass(frozen=True)
class Configuration:
    """Sizes of an encoder, as its config.json tells them."""

    width: int
    layers: int
    heads: int
    positions: int
    eps: float

    @classmethod
    def load(cls, folder: Path) -> Configuration:
        """From a folder's config.json; ValueError for what is not BERT as here."""
        file = folder / "config.json"
        found = json.loads(file.read_text(encoding="utf-8"))
        for key, expected in (
            ("model_type", "bert"),
            ("hidden_act", "gelu"),
            ("position_embedding_type", "absolute"),
        ):
            if found.get(key, expected) != expected:
                raise ValueError(f"{file}: expected {key} {expected!r}, found {found[key]!r}")
        return cls(
            width=found["hidden_size"],
            layers=found["num_hidden_layers"],
            heads=found["num_attention_heads"],
            positions=found["max_position_embeddings"],
            eps=found["layer_norm_eps"],
        )


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """The encoder's arrays from model.safetensors, float32, under the names of a bare BertModel."""
    try:
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reading model.safetensors needs safetensors: pip install 'attnlab[pretrained]'"
        ) from error
    weights = {}
    for name, array in load_file(folder / "model.safetensors").items():
        name = name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")
        if name.startswith(("embeddings.", "encoder.")) and array.dtype.kind == "f":
            weights[name] = array.astype(np.float32, copy=False)
    return weights


class BertNumpy:
    """The encoder: hidden states of every layer, and with them the attention maps."""

    def __init__(self, configuration: Configuration, weights: Mapping[str, np.ndarray]) -> None:
        self.configuration, self.weights = configuration, weights

    @classmethod
    def load(cls, folder: Path) -> BertNumpy:
        """From a folder with config.json and model.safetensors."""
        return cls(Configuration.load(folder), read_weights(folder))

    def __call__(
        self, ids: Int[np.ndarray, "batch n"], mask: Bool[np.ndarray, "batch n"]
    ) -> tuple[
        list[Float[np.ndarray, "batch n width"]], list[Float[np.ndarray, "batch heads n n"]]
    ]:
        """Hidden states (layers + 1: what enters each layer, what leaves the last) and weights."""
        hidden, weights = [self.embed(ids)], []
        for layer in range(self.configuration.layers):
            x, w = self.layer(layer, hidden[-1], mask)
            hidden.append(x)
            weights.append(w)
        return hidden, weights

    def embed(self, ids: Int[np.ndarray, "batch n"]) -> Float[np.ndarray, "batch n width"]:
        """Word, position and segment embeddings (all tokens of segment 0), normalised."""
        table = {k: self.weights[f"embeddings.{k}_embeddings.weight"] for k in EMBEDDINGS}
        n = ids.shape[1]
        x = table["word"][ids] + table["token_type"][0] + table["position"][:n]
        return self.normalise("embeddings.LayerNorm", x)

    def layer(
        self, layer: int, x: Float[np.ndarray, "batch n width"], mask: Bool[np.ndarray, "batch n"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One layer's output and its attention weights."""
        at, heads = f"encoder.layer.{layer}.", self.configuration.heads

        def split(t: np.ndarray) -> np.ndarray:  # (batch, heads, n, dim)
            return t.reshape(*t.shape[:2], heads, -1).swapaxes(1, 2)

        q, k, v = (
            split(self.linear(f"{at}attention.self.{name}", x))
            for name in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(-1, -2) / np.float32(q.shape[-1] ** 0.5)  # (batch, heads, n, n)
        scores = np.where(mask[:, None, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        heard = (weights @ v).swapaxes(1, 2).reshape(x.shape)
        written = self.linear(at + "attention.output.dense", heard)
        x = self.normalise(at + "attention.output.LayerNorm", x + written)
        inner = self.linear(at + "intermediate.dense", x)
        inner = inner * (1 + erf(inner / np.float32(2**0.5))) / 2  # gelu
        outer = self.linear(at + "output.dense", inner)
        return self.normalise(at + "output.LayerNorm", x + outer), weights

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def normalise(self, name: str, x: np.ndarray) -> np.ndarray:
        """LayerNorm over the last axis."""
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.configuration.eps))
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]


EMBEDDINGS = ("word", "token_type", "position")
