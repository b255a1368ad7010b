"""Causal models one token at a time, with the attention of every head in view and any head flattened.

What a needle test asks of a model (Wu et al., "Retrieval head mechanistically explains long-context
factuality", 2024) is a `Decoder`; here are three: the toy models that ship, the language model that
ships, and any Hugging Face causal model in a folder. Flattening a head makes its attention uniform
over what it may see: its queries become 0.

    decoder = open_decoder("retrieval")          # or induction, …, language, or a folder
    state = decoder.prefill(ids[:-1])
    logits, rows, state = decoder.step(ids[-1], state, masked_heads=[(1, 2)])
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.models.circuits import CircuitTransformer
from attnlab.models.language import Attend, LanguageModel

Heads = Collection[tuple[int, int]]  # (layer, head), both from 0
Step = tuple[
    Float[np.ndarray, "vocabulary"], Float[np.ndarray, "layers heads keys"], Any
]  # logits, rows, state


class Decoder(Protocol):
    """A causal model that shows its attention.

    context: the longest sequence it reads. ids: the token ids that random prompts are drawn from.
    begin: ids that every prompt starts with. sampled: what its own prompts are, for a reader.
    """

    name: str
    layers: int
    heads: int
    context: int
    ids: Int[np.ndarray, "tokens"]
    begin: tuple[int, ...]
    sampled: str

    def tokens(self, text: str) -> Int[np.ndarray, "n"]:
        """The ids of a text."""

    def labels(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """A short name for each token."""

    def prefill(self, ids: Sequence[int] | np.ndarray, masked_heads: Heads = ()) -> Any:
        """Read all but the last token of a prompt. The paper masks nothing here."""

    def step(self, token: int, state: Any, masked_heads: Heads = ()) -> Step:
        """Read one token. Query heads count, also where they share keys. The state is used up."""

    def logits(
        self, ids: Int[np.ndarray, "n"], masked_heads: Heads = ()
    ) -> Float[np.ndarray, "n vocabulary"]:
        """Next-token logits at every place, heads flattened at every place."""

    def attention(self, ids: Int[np.ndarray, "n"]) -> Float[np.ndarray, "layers heads n n"]:
        """Every head's attention while a sequence is read; rows sum to 1."""

    def samples(self, count: int, seed: int) -> list[Int[np.ndarray, "n"]]:
        """Prompts such as the model was trained on."""


class CircuitDecoder:
    """One of the toy models of `attnlab.models.circuits`."""

    def __init__(self, model: CircuitTransformer) -> None:
        c = model.configuration
        self.model, self.name = model, c.task
        self.layers, self.heads, self.context = c.layers, c.heads, c.context
        words = c.vocabulary
        self.begin: tuple[int, ...] = (0,) if words[0] == "<s>" else ()
        self.ids = np.arange(len(self.begin), len(words))
        self.sampled = f"prompts of the {c.task} task"

    def tokens(self, text: str) -> Int[np.ndarray, "n"]:
        return self.model.encode(text)

    def labels(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return [self.model.configuration.vocabulary[int(i)] for i in ids]

    def prefill(self, ids: Sequence[int] | np.ndarray, masked_heads: Heads = ()) -> Any:
        return self.model.prefill(ids, masked_heads)

    def step(self, token: int, state: Any, masked_heads: Heads = ()) -> Step:
        return self.model.step(token, state, masked_heads)

    def logits(
        self, ids: Int[np.ndarray, "n"], masked_heads: Heads = ()
    ) -> Float[np.ndarray, "n vocabulary"]:
        with torch.no_grad():
            return self.model(torch.as_tensor(ids)[None], masked_heads)[0].numpy()

    def attention(self, ids: Int[np.ndarray, "n"]) -> Float[np.ndarray, "layers heads n n"]:
        with torch.no_grad():
            return self.model.trace(torch.as_tensor(ids)[None]).weights[0].numpy()

    def samples(self, count: int, seed: int) -> list[Int[np.ndarray, "n"]]:
        return list(self.model.task(count, seed).positives)


class LanguageDecoder:
    """The small language model that ships. It has no cache: each step reads the text again."""

    def __init__(self, model: LanguageModel, text: str) -> None:
        """text: where `samples` takes its windows from; it must hold at least a context."""
        c = model.configuration
        self.model, self.name = model, "language"
        self.layers, self.heads, self.context = c.layers, c.heads, c.context
        self.begin: tuple[int, ...] = ()
        self.ids = np.arange(c.vocabulary)
        self.corpus = model.encode(text).numpy()
        if len(self.corpus) < 16:
            raise ValueError(f"the text has {len(self.corpus)} tokens, at least 16 are needed")
        self.sampled = "windows of the text"

    def tokens(self, text: str) -> Int[np.ndarray, "n"]:
        return self.model.encode(text).numpy()

    def labels(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return [self.model.tokenizer.label(int(i)) for i in ids]

    def prefill(self, ids: Sequence[int] | np.ndarray, masked_heads: Heads = ()) -> Any:
        return np.asarray(ids, dtype=np.int64), len(ids), tuple(masked_heads)

    def step(self, token: int, state: Any, masked_heads: Heads = ()) -> Step:
        read, start, before = state  # ids, where decoding began, heads flattened before it
        ids = np.append(read, token)
        masked = [(head, 0) for head in before] + [(head, start) for head in masked_heads]
        logits, weights = self._read(ids, masked)
        return logits[-1], weights[:, :, -1], (ids, start, before)

    def logits(
        self, ids: Int[np.ndarray, "n"], masked_heads: Heads = ()
    ) -> Float[np.ndarray, "n vocabulary"]:
        return self._read(ids, [(head, 0) for head in masked_heads])[0]

    def attention(self, ids: Int[np.ndarray, "n"]) -> Float[np.ndarray, "layers heads n n"]:
        return self.model.attention_weights(ids)

    def samples(self, count: int, seed: int) -> list[Int[np.ndarray, "n"]]:
        return _windows(self.corpus, min(self.context, 128), count, seed)

    def _read(
        self, ids: np.ndarray, masked: list[tuple[tuple[int, int], int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits and weights; masked: (layer, head) and the first place at which it is flat."""
        _check([head for head, _ in masked], self)
        rows: list[Tensor] = []
        future = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)

        def attend(layer: int) -> Attend:
            def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                S = q @ k.mT / q.shape[-1] ** 0.5
                for (at, head), first in masked:
                    if at == layer:
                        S[:, head, first:] = 0
                A = S.masked_fill(future, -torch.inf).softmax(-1)
                rows.append(A[0])
                return A @ v

            return one

        with torch.no_grad():
            logits = self.model(torch.as_tensor(ids), {i: attend(i) for i in range(self.layers)})
        return logits.numpy(), torch.stack(rows).numpy()


class HuggingFaceDecoder:
    """Any causal model of the transformers library whose attention goes through its interface."""

    def __init__(self, model: Any, tokenizer: Any, text: str, name: str) -> None:
        """model: an AutoModelForCausalLM in evaluation mode; tokenizer may be None for models that
        are only shown random tokens."""
        c = model.config.get_text_config()
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.layers, self.heads = c.num_hidden_layers, c.num_attention_heads
        self.context = int(getattr(c, "max_position_embeddings", 1024))
        special = set(tokenizer.all_special_ids) if tokenizer is not None else set()
        self.ids = np.array([i for i in range(c.vocab_size) if i not in special])
        begin = getattr(tokenizer, "bos_token_id", None)
        self.begin: tuple[int, ...] = () if begin is None else (int(begin),)
        self.corpus = np.zeros(0, np.int64) if tokenizer is None else self.tokens(text)
        self.sampled = "windows of the text" if len(self.corpus) >= 16 else "random tokens"
        # transformers 5.2x renames past_key_values
        taken = inspect.signature(model.forward).parameters
        self._cache = "cache" if "cache" in taken else "past_key_values"
        self._masked: dict[int, list[int]] = {}
        self._register()

    def tokens(self, text: str) -> Int[np.ndarray, "n"]:
        from attnlab.models.huggingface import quiet

        with quiet():  # a corpus is longer than the model's context: windows of it are read
            return np.array(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    def labels(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        if self.tokenizer is None:
            return [str(int(i)) for i in ids]
        return self.tokenizer.convert_ids_to_tokens([int(i) for i in ids])

    def prefill(self, ids: Sequence[int] | np.ndarray, masked_heads: Heads = ()) -> Any:
        if not len(ids):
            return None
        made = self._run(np.asarray(ids), None, masked_heads, attentions=False)
        return getattr(made, self._cache)

    def step(self, token: int, state: Any, masked_heads: Heads = ()) -> Step:
        made = self._run(np.array([token]), state, masked_heads, attentions=True)
        rows = torch.stack([a[0, :, -1] for a in made.attentions]).float().numpy()
        return made.logits[0, -1].float().numpy(), rows, getattr(made, self._cache)

    def logits(
        self, ids: Int[np.ndarray, "n"], masked_heads: Heads = ()
    ) -> Float[np.ndarray, "n vocabulary"]:
        return self._run(ids, None, masked_heads, attentions=False).logits[0].float().numpy()

    def attention(self, ids: Int[np.ndarray, "n"]) -> Float[np.ndarray, "layers heads n n"]:
        made = self._run(ids, None, (), attentions=True)
        return torch.stack([a[0] for a in made.attentions]).float().numpy()

    def samples(self, count: int, seed: int) -> list[Int[np.ndarray, "n"]]:
        n = min(self.context, 128)
        if len(self.corpus) < 16:
            rng = np.random.default_rng(seed)
            return [rng.choice(self.ids, n) for _ in range(count)]
        return [
            np.concatenate([np.array(self.begin, np.int64), w])
            for w in _windows(self.corpus, n - len(self.begin), count, seed)
        ]

    def _run(self, ids: np.ndarray, cache: Any, masked: Heads, *, attentions: bool) -> Any:
        _check(masked, self)
        self._masked.clear()
        for layer, head in masked:
            self._masked.setdefault(layer, []).append(head)
        with torch.no_grad():
            # without a cache to hand over, one is made: no name for it is needed
            given = {} if cache is None else {self._cache: cache}
            return self.model(
                input_ids=torch.as_tensor(ids, dtype=torch.long)[None],
                use_cache=True,
                output_attentions=attentions,
                **given,
            )

    def _register(self) -> None:
        """Attention that returns its weights and gives flattened heads queries of 0."""
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, eager_mask

        blocked = self._masked

        def attend(
            module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
            scaling: float | None = None, **_: Any,
        ) -> tuple[Tensor, Tensor]:  # fmt: skip
            if heads := blocked.get(getattr(module, "layer_idx", -1)):
                query = query.clone()
                query[:, heads] = 0
            groups = query.shape[1] // key.shape[1]
            k, v = (z.repeat_interleave(groups, 1) for z in (key, value))
            S = query @ k.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
            if attention_mask is not None:
                S = S + attention_mask[..., : k.shape[2]]
            A = S.float().softmax(-1).to(query.dtype)
            return (A @ v).transpose(1, 2).contiguous(), A

        name = f"attnlab_{id(self)}"
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, eager_mask)
        self.model.set_attn_implementation(name)


def open_decoder(name: str, text: str | None = None) -> Decoder:
    """A model by name: a circuit task, "language", or the folder of a Hugging Face causal model.

    text: where models of language take their samples from; the reference text of Python without.
    ValueError, with what there is, for a name that is neither.
    """
    from attnlab.datasets.circuit_tasks import TASKS
    from attnlab.models import circuits, language

    if name in TASKS:
        return CircuitDecoder(circuits.load(name))
    if name == "language" or Path(name).is_dir():
        if text is None:
            from attnlab.datasets.python_reference import python_reference

            text = python_reference().validation
        if name == "language":
            return LanguageDecoder(language.load(), text)
        return open_folder(Path(name), text)
    import difflib

    known = (*TASKS, "language")
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"model must be one of {', '.join(known)} or a folder, not {name!r}{hint}")


def open_folder(folder: Path, text: str) -> HuggingFaceDecoder:
    """A causal model that transformers saved in a folder; nothing is fetched from anywhere.

    ValueError where transformers is missing or cannot read it as a causal model.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise ValueError(
            f"{folder}: a Hugging Face model needs the extra 'hf' (transformers)"
        ) from None
    from attnlab.models.huggingface import CAUSAL, made_up, quiet, reason

    with quiet():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            made = (getattr(config, "architectures", None) or ["none named"])[0]
            if not made.endswith(CAUSAL):
                raise ValueError(f"its architecture is {made}")
            model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        except Exception as error:  # a damaged file may raise what its reader likes
            message = f"{folder} holds no causal model that can be read ({reason(error)})"
            raise ValueError(message) from None
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if made_up(tokenizer):
                tokenizer = None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            tokenizer = None  # random tokens need none
    return HuggingFaceDecoder(model, tokenizer, text, folder.name)


def _windows(corpus: np.ndarray, n: int, count: int, seed: int) -> list[np.ndarray]:
    """Windows of n tokens at random places of a text (the whole text where it is shorter)."""
    starts = np.random.default_rng(seed).integers(max(1, len(corpus) - n + 1), size=count)
    return [corpus[start : start + n] for start in starts]


def _check(heads: Heads, decoder: Decoder) -> None:
    for layer, head in heads:
        if not (0 <= layer < decoder.layers and 0 <= head < decoder.heads):
            raise ValueError(
                f"head ({layer}, {head}) does not exist: "
                f"{decoder.layers} layers of {decoder.heads} heads"
            )
