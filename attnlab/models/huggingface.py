"""Any Hugging Face sequence classifier or causal model as a `Classifier` (extra `hf`).

    model = load("path/to/folder")            # or a name on the hub
    model.encode("A text"), model(…), model.trace(…)

The fast path runs with the library's "sdpa" attention. For BERT, RoBERTa, DistilBERT, GPT-2 and the
Llama family (Llama, Mistral, Qwen 2) all that an explanation may ask for is there; another architecture
gives logits, attention weights (`output_attentions` with the "eager" attention) and hidden states.

A causal model's labels are its vocabulary: the logits are those of the token that follows the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.contract import InputError
from attnlab.models.classifier import Classifier, Encoded, Rule, Trace
from attnlab.models.huggingface_families import Recorder, family_of, last_token
from attnlab.models.words import require_tokens

CAUSAL = ("ForCausalLM", "LMHeadModel")


class NotGiven(Sequence):
    """Stands for something that an architecture does not show: any use says so."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __getitem__(self, _: Any) -> NoReturn:
        raise NotImplementedError(self.reason)

    def __len__(self) -> NoReturn:
        raise NotImplementedError(self.reason)


class HuggingFace(Classifier):
    """A model of the transformers library and its tokenizer."""

    kind = "huggingface"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        config = model.config
        if getattr(config, "is_encoder_decoder", False):
            raise InputError(f"{config.model_type} has a decoder beside its encoder: not supported")
        if not tokenizer.is_fast:
            raise InputError("the model's tokenizer tells no offsets; a fast tokenizer is needed")
        self.model, self.tokenizer = model, tokenizer
        self.causal = type(model).__name__.endswith(CAUSAL)
        if self.causal:
            pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
            size = model.get_output_embeddings().weight.shape[0]
            pieces = [*pieces[:size], *(f"[{i}]" for i in range(len(pieces), size))]
            self.labels: tuple[str, ...] = tuple(pieces)
        elif config.num_labels < 2:
            raise InputError("the model has one output, a regression: a classifier is needed")
        else:
            self.labels = tuple(config.id2label[i] for i in range(config.num_labels))
        known = (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id = next(int(i) for i in known if isinstance(i, int))
        self.mask_id = tokenizer.mask_token_id
        self.layers = config.num_hidden_layers
        self.attention_map = "the softmax weights of each layer's heads" + (
            "; every token reads itself and what precedes it" if self.causal else ""
        )
        self.family = family_of(model)
        self.eval()

    def encode(self, text: str) -> Encoded:
        """Cut off where the model's positions end."""
        config = self.model.config
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and "roberta" in config.model_type:
            longest -= config.pad_token_id + 1  # its positions begin behind that of padding
        found = self.tokenizer(
            text,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            truncation=longest is not None,
            max_length=longest,
        )
        special = np.array(found["special_tokens_mask"], dtype=bool)
        if not len(special) or special.all():
            raise ValueError(f"the text {text!r} has no word")
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        word_of = {c: i for i, (start, end) in enumerate(spans) for c in range(start, end)}
        words, last = [], 0
        for (start, end), alone in zip(found["offset_mapping"], special, strict=True):
            last = next((word_of[c] for c in range(end - 1, start - 1, -1) if c in word_of), last)
            words.append(-1 if alone else last)
        return Encoded(
            tokens=tuple(self.tokenizer.convert_ids_to_tokens(found["input_ids"])),
            ids=np.array(found["input_ids"], dtype=np.int64),
            special=special,
            words=np.array(words),
        )

    def embed(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "batch n width"]:
        """What enters the first layer; for an architecture not known here the word embeddings alone."""
        if self.family is None:
            return self.model.get_input_embeddings()(ids)
        return self.family.embed(ids)

    def forward(self, embedded: Tensor, mask: Tensor) -> Float[Tensor, "batch classes"]:
        require_tokens(mask)
        if self.family is None:
            return self._whole(embedded, mask)[0]
        x, readers = embedded, self.family.readers(mask)
        for layer in self.family.layers:
            x = self.family.run(layer, x, readers)
        return self.family.head(x, mask, "gradient")

    def trace(self, embedded: Tensor, mask: Tensor, *, rule: Rule = "gradient") -> Trace:
        require_tokens(mask)
        if self.family is None:
            if rule == "lrp":
                self._refuse("relevance propagation")
            with self._eager():
                logits, out = self._whole(embedded, mask, maps=True)
            reason = self._reason("value vectors")
            return Trace(logits, [*out.attentions], NotGiven(reason), [*out.hidden_states])  # type: ignore[arg-type]
        recorder, readers = Recorder(rule), self.family.readers(mask)
        hidden = [embedded]
        with self.family.reading(recorder):
            for layer in self.family.layers:
                hidden.append(self.family.run(layer, hidden[-1], readers))
            logits = self.family.head(hidden[-1], mask, rule)
        pairs = zip(self.family.layers, recorder.values, strict=True)
        values = [self.family.split(layer, v) for layer, v in pairs]
        return Trace(logits, recorder.weights, values, hidden)

    def block(
        self, layer: int, hidden: Tensor, mask: Tensor, *, keep: Tensor | None = None
    ) -> Float[Tensor, "batch n width"]:
        if self.family is None:
            self._refuse("running one layer alone")
        assert self.family is not None
        with self.family.reading(Recorder(keep=keep)):
            return self.family.run(self.family.layers[layer], hidden, self.family.readers(mask))

    def _whole(self, embedded: Tensor, mask: Tensor, maps: bool = False) -> tuple[Tensor, Any]:
        """Logits by the library's own forward pass."""
        given: dict[str, Any] = {"inputs_embeds": embedded, "attention_mask": mask.long()}
        if maps:
            given |= {"output_attentions": True, "output_hidden_states": True}
        rows = torch.arange(len(mask))
        if not self.causal and hasattr(self.model, "score"):
            # The library would read the last place, padding or not: it cannot see ids here.
            out = self.model.base_model(**given)
            return self.model.score(out.last_hidden_state[rows, last_token(mask)]), out
        out = self.model(**given)
        return (out.logits[rows, last_token(mask)] if self.causal else out.logits), out

    @contextmanager
    def _eager(self) -> Iterator[None]:
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def _reason(self, what: str) -> str:
        return (
            f"{what}: not known for the architecture {self.model.config.model_type!r}; "
            "BERT, RoBERTa, DistilBERT, GPT-2 and the Llama family have it"
        )

    def _refuse(self, what: str) -> NoReturn:
        raise NotImplementedError(self._reason(what))


def load(name: str | Path) -> HuggingFace:
    """A sequence classifier or causal model from a local folder or the hub, float32.

    ModuleNotFoundError without the extra `hf`; InputError where there is no such model, or where it
    is neither a sequence classifier nor a causal model.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {str(name)!r} needs the transformers library: pip install 'attnlab[hf]'"
        ) from error
    source = str(name)
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        architecture = (getattr(config, "architectures", None) or ["none named"])[0]
        if architecture.endswith("ForSequenceClassification"):
            kind: Any = transformers.AutoModelForSequenceClassification
        elif architecture.endswith(CAUSAL):
            kind = transformers.AutoModelForCausalLM
        else:
            raise InputError(
                f"{source} holds the architecture {architecture}; "
                "a sequence classifier or a causal model is needed"
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        if made_up(tokenizer):
            raise InputError(
                f"{source} holds no tokenizer: neither tokenizer.json nor a vocabulary"
            )
        with quiet() if Path(source).is_dir() else nullcontext():
            model = kind.from_pretrained(source, dtype=torch.float32, attn_implementation="sdpa")
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise what its reader likes
        raise InputError(f"no model could be read from {source!r}: {reason(error)}") from error
    return HuggingFace(model, tokenizer)


def made_up(tokenizer: Any) -> bool:
    """Whether it has special tokens alone: the library makes one up where no file describes one."""
    return len(tokenizer) <= len(tokenizer.all_special_ids)


def reason(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Within it the library reads a folder in silence; a download shows its progress."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
