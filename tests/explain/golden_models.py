"""The two models of the disagreement vectors, as classifiers whose class 1 has the vectors' probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnlab.explain import Problem
from attnlab.explain.problem import Output
from attnlab.models.bilstm import BiLSTM, Configuration
from attnlab.models.classifier import Classifier, Encoded, Trace
from attnlab.models.words import Vocabulary
from attnlab.paths import shared_data

Arrays = dict[str, np.ndarray]


def case(name: str) -> Arrays:
    """A case of the vectors: in/…, param/… and out/… by name."""
    shared = shared_data()
    places = [Path(__file__).parents[1] / "golden", *([shared.parent / "golden"] if shared else [])]
    for folder in places:
        if (file := folder / "disagreement.npz").is_file():
            arrays = np.load(file)
            return {
                k.removeprefix(f"{name}/"): arrays[k]
                for k in arrays.files
                if k.startswith(f"{name}/")
            }
    pytest.skip("the vectors of the disagreement study are not here")


def tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array)


class Functional(nn.Module):
    """tanh that no hook takes for a registered non-linearity."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def bilstm(arrays: Arrays) -> BiLSTM:
    p = {k.removeprefix("param/"): tensor(v) for k, v in arrays.items() if k.startswith("param/")}
    model = BiLSTM(Vocabulary(["a"]), ["0", "1"], Configuration(width=4, hidden=3)).double()
    decoder, bias = p["dec_weight"], p["dec_bias"]
    model.load_state_dict(
        {f"encoder.{k.removeprefix('enc_')}": v for k, v in p.items() if k.startswith("enc_")}
        | {
            "alignment.weight": p["att_alignment_layer1_weight"],
            "alignment.bias": p["att_alignment_layer1_bias"],
            "score.weight": p["att_alignment_layer2_weight"],
            "decoder.weight": torch.cat([torch.zeros_like(decoder), decoder]),
            "decoder.bias": torch.cat([torch.zeros_like(bias), bias]),
            "embedding.weight": model.embedding.weight,
        }
    )
    model.tanh = Functional()  # type: ignore[assignment]
    return model.eval()


class MLP(Classifier):
    """Linear, tanh, Linear, ReLU, mean over tokens, Linear, Sigmoid; "logits" are [1 - p, p]."""

    labels = ("0", "1")
    pad_id, mask_id, layers, attention_map = 0, None, 0, "none"

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        for name in ("l1", "l2", "o"):
            weight, bias = (tensor(arrays[f"param/{name}_{part}"]) for part in ("weight", "bias"))
            linear = nn.Linear(weight.shape[1], weight.shape[0]).double()
            linear.load_state_dict({"weight": weight, "bias": bias})
            self.add_module(name, linear)
        self.tanh, self.relu, self.sigmoid = nn.Tanh(), nn.ReLU(), nn.Sigmoid()

    def encode(self, text: str) -> Encoded:
        raise NotImplementedError

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        h = self.relu(self.l2(self.tanh(self.l1(embedded)))) * mask[..., None]
        p = self.sigmoid(self.o(h.sum(1) / mask.sum(1, keepdim=True)))
        return torch.cat([1 - p, p], dim=-1)

    def trace(self, embedded: Tensor, mask: Tensor, *, rule: str = "gradient") -> Trace:
        raise NotImplementedError

    def block(
        self, layer: int, hidden: Tensor, mask: Tensor, *, keep: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError


def golden_problem(model: Classifier, arrays: Arrays, output: Output) -> Problem:
    embedded, mask = tensor(arrays["in/embedded"]), tensor(arrays["in/mask"])
    n = mask.shape[1]
    text = Encoded(("x",) * n, np.zeros(n, np.int64), np.zeros(n, bool), np.arange(n))
    ids = torch.zeros_like(mask, dtype=torch.long)
    baseline, target = tensor(arrays["in/baseline"]), torch.ones(1, dtype=torch.long)
    return Problem(model, (text,), ids, mask, embedded, baseline, target, output)
