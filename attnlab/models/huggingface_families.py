"""Where families of Hugging Face architectures keep the parts that an explanation needs.

A `Family` runs a model's own modules layer by layer, so that one layer can be run alone, with the
value vectors of some tokens zeroed, and with the gradient of rule "lrp". The attention itself is
replaced, for the readable path, by `readable_attention`, through the library's attention interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnlab.models.classifier import Rule
from attnlab.models.propagation import constant, divided, proportional

READABLE = "attnlab_readable"  # the name of our attention among the library's


class Recorder:
    """What the readable attention shall do, and what it saw: weights and head-wise values."""

    def __init__(self, rule: Rule = "gradient", keep: Tensor | None = None) -> None:
        self.rule, self.keep = rule, keep
        self.weights: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float) -> Tensor:
        """softmax(scaling q kᵀ) v over mask (batch, 1, queries or 1, n); (batch, n, heads, dim)."""
        groups = q.shape[1] // k.shape[1]  # query heads that share a key head
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        scores = (q @ k.transpose(-1, -2) * scaling).masked_fill(~mask, -torch.inf)
        weights = constant(scores.softmax(-1), self.rule)
        if self.keep is not None:
            v = v * self.keep[:, None, :, None]
        self.weights.append(weights)
        self.values.append(v)
        return (weights @ v).transpose(1, 2)


_recorder: list[Recorder] = []  # that of the forward pass under way


def readable_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """An attention in the library's signature that records; used within `Family.reading`."""
    recorder = _recorder[-1]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = recorder.attend(query, key, value, attention_mask, scaling)
    return out, recorder.weights[-1]


class Family(ABC):
    """One family's parts. Not a module: `model` is registered by its owner."""

    causal = False

    def __init__(self, model: nn.Module) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(READABLE, readable_attention)
        self.model: Any = model
        for module in model.modules():  # the same functions under the names that hooks look for
            for name, child in module.named_children():
                if type(child).__name__ in PLAIN:
                    setattr(module, name, PLAIN[type(child).__name__]())

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The blocks, from the input on."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Float[Tensor, "batch n width"]:
        """What enters the first layer."""

    @abstractmethod
    def projection(self, layer: nn.Module) -> Float[Tensor, "heads_dim width"]:
        """The matrix by which a layer's attention projects what its heads read."""

    @abstractmethod
    def nonlinear(self, layer: nn.Module) -> nn.Module:
        """A layer's element-wise non-linearity."""

    @abstractmethod
    def head(self, x: Float[Tensor, "batch n width"], mask: Tensor, rule: Rule) -> Tensor:
        """Logits from the last states."""

    def run(self, layer: nn.Module, x: Tensor, mask: Bool[Tensor, "batch 1 _ n"]) -> Tensor:
        """One layer."""
        out = layer(x, attention_mask=mask)
        return out[0] if isinstance(out, tuple) else out

    def readers(self, mask: Bool[Tensor, "batch n"]) -> Bool[Tensor, "batch 1 _ n"]:
        """Who may read whom."""
        if not self.causal:
            return mask[:, None, None]
        n = mask.shape[1]
        past = torch.ones(n, n, dtype=torch.bool, device=mask.device).tril()
        allowed = past & mask[:, None]  # (batch, n, n)
        # A row without anything to read (a masked first token) reads itself: no NaN may arise.
        nothing = ~allowed.any(-1, keepdim=True)
        return (allowed | (nothing & torch.eye(n, dtype=torch.bool, device=mask.device)))[:, None]

    def split(self, layer: nn.Module, values: Tensor) -> Float[Tensor, "batch heads n width"]:
        """Head-wise values behind the heads' slices of the output projection."""
        return values @ self.projection(layer).unflatten(0, (values.shape[1], -1))

    @contextmanager
    def reading(self, recorder: Recorder) -> Iterator[None]:
        """Within it the model's attention is the readable one, and rule "lrp" is obeyed."""
        config = self.model.config
        before = config._attn_implementation
        with ExitStack() as stack:
            if recorder.rule == "lrp":
                for module, hook in self._hooks():
                    stack.callback(module.register_forward_hook(hook).remove)
            config._attn_implementation = READABLE
            _recorder.append(recorder)
            try:
                yield
            finally:
                _recorder.pop()
                config._attn_implementation = before

    def _hooks(self) -> Iterator[tuple[nn.Module, Any]]:
        for module in self.model.modules():
            if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm"):
                yield module, lambda norm, x, y: divided(norm, x[0], y)
        for layer in self.layers:
            yield self.nonlinear(layer), lambda _, x, y: proportional(x[0], y)


class BertFamily(Family):
    """BertForSequenceClassification."""

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.bert.encoder.layer

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.bert.embeddings(ids)

    def projection(self, layer: Any) -> Tensor:
        return layer.attention.output.dense.weight.T

    def nonlinear(self, layer: Any) -> nn.Module:
        return layer.intermediate.intermediate_act_fn

    def head(self, x: Tensor, mask: Tensor, rule: Rule) -> Tensor:
        return self.model.classifier(self.model.dropout(self.model.bert.pooler(x)))

    def _hooks(self) -> Iterator[tuple[nn.Module, Any]]:
        yield from super()._hooks()
        yield self.model.bert.pooler.activation, lambda _, x, y: proportional(x[0], y)


class RobertaFamily(Family):
    """RobertaForSequenceClassification, XLM-RoBERTa too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        model.tanh = nn.Tanh()  # a function in the library; hooks need a module

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.roberta.encoder.layer

    def embed(self, ids: Tensor) -> Tensor:
        # The library would count positions over tokens that are not padding: a token replaced by
        # padding would move all others.
        embeddings = self.model.roberta.embeddings
        first = embeddings.padding_idx + 1
        places = torch.arange(first, first + ids.shape[1], device=ids.device)[None]
        return embeddings(ids, position_ids=places)

    def projection(self, layer: Any) -> Tensor:
        return layer.attention.output.dense.weight.T

    def nonlinear(self, layer: Any) -> nn.Module:
        return layer.intermediate.intermediate_act_fn

    def head(self, x: Tensor, mask: Tensor, rule: Rule) -> Tensor:
        head = self.model.classifier
        hidden = self.model.tanh(head.dense(head.dropout(x[:, 0])))
        return head.out_proj(head.dropout(hidden))

    def _hooks(self) -> Iterator[tuple[nn.Module, Any]]:
        yield from super()._hooks()
        yield self.model.tanh, lambda _, x, y: proportional(x[0], y)


class DistilBertFamily(Family):
    """DistilBertForSequenceClassification."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        model.relu = (
            nn.ReLU()
        )  # the library makes a new one in every call; hooks need one that stays

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.distilbert.transformer.layer

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.distilbert.embeddings(ids)

    def projection(self, layer: Any) -> Tensor:
        return layer.attention.out_lin.weight.T

    def nonlinear(self, layer: Any) -> nn.Module:
        return layer.ffn.activation

    def head(self, x: Tensor, mask: Tensor, rule: Rule) -> Tensor:
        hidden = self.model.relu(self.model.pre_classifier(x[:, 0]))
        return self.model.classifier(self.model.dropout(hidden))

    def _hooks(self) -> Iterator[tuple[nn.Module, Any]]:
        yield from super()._hooks()
        yield self.model.relu, lambda _, x, y: proportional(x[0], y)


class LlamaFamily(Family):
    """Llama, Mistral and Qwen 2, as causal models or as sequence classifiers."""

    causal = True

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.model.layers

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.model.embed_tokens(ids)

    def projection(self, layer: Any) -> Tensor:
        return layer.self_attn.o_proj.weight.T

    def nonlinear(self, layer: Any) -> nn.Module:
        return layer.mlp.act_fn

    def run(self, layer: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)[None]
        rotary = self.model.model.rotary_emb(x, position_ids=places)
        out = layer(x, attention_mask=mask, position_ids=places, position_embeddings=rotary)
        return out[0] if isinstance(out, tuple) else out

    def head(self, x: Tensor, mask: Tensor, rule: Rule) -> Tensor:
        last = self.model.model.norm(x)[torch.arange(len(x)), last_token(mask)]
        decode = self.model.lm_head if hasattr(self.model, "lm_head") else self.model.score
        return decode(last)

    def _hooks(self) -> Iterator[tuple[nn.Module, Any]]:
        gates = {id(self.nonlinear(layer)) for layer in self.layers}
        for module, hook in super()._hooks():  # silu(gate) multiplies: it counts as a constant
            yield module, (lambda _, x, y: y.detach()) if id(module) in gates else hook


class Gpt2Family(Family):
    """GPT-2, as a causal model or as a sequence classifier."""

    causal = True

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.transformer.h

    def embed(self, ids: Tensor) -> Tensor:
        body = self.model.transformer
        return body.wte(ids) + body.wpe.weight[: ids.shape[1]]

    def projection(self, layer: Any) -> Tensor:
        return layer.attn.c_proj.weight  # the library keeps GPT-2's matrices transposed

    def nonlinear(self, layer: Any) -> nn.Module:
        return layer.mlp.act

    def head(self, x: Tensor, mask: Tensor, rule: Rule) -> Tensor:
        last = self.model.transformer.ln_f(x)[torch.arange(len(x)), last_token(mask)]
        return (self.model.lm_head if hasattr(self.model, "lm_head") else self.model.score)(last)


def last_token(mask: Bool[Tensor, "batch n"]) -> Tensor:
    """The place of each row's last unmasked token."""
    return mask.shape[1] - 1 - mask.flip(1).to(torch.uint8).argmax(1)


# The library's own classes for functions that PyTorch has as modules.
PLAIN: dict[str, Any] = {
    "GELUActivation": nn.GELU,
    "NewGELUActivation": lambda: nn.GELU(approximate="tanh"),
    "GELUTanh": lambda: nn.GELU(approximate="tanh"),
    "SiLUActivation": nn.SiLU,
}

FAMILIES: dict[str, type[Family]] = {
    "bert": BertFamily,
    "roberta": RobertaFamily,
    "xlm-roberta": RobertaFamily,
    "distilbert": DistilBertFamily,
    "gpt2": Gpt2Family,
    "llama": LlamaFamily,
    "mistral": LlamaFamily,
    "qwen2": LlamaFamily,
}


def family_of(model: nn.Module) -> Family | None:
    """The family of a model, or None for an architecture whose parts are not known here."""
    config: Any = model.config
    kind = FAMILIES.get(config.model_type)
    sliding = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    decoder = getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False)
    upcast = getattr(config, "reorder_and_upcast_attn", False)
    return None if kind is None or sliding or decoder or upcast else kind(model)
