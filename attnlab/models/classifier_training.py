"""Trains text classifiers on any labelled texts: `attnlab.models.classifiers.train`."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import cos, nan, pi
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.contract import InputError, suggest
from attnlab.models import bilstm, text_transformer
from attnlab.models.classifier import Classifier, Encoded, pad
from attnlab.models.words import SPECIAL, UNKNOWN, Vocabulary, WordClassifier

KINDS = ("bilstm", "transformer", "bert")
NAMES = ("negative", "positive")
READ_BY_BERT = 2000  # texts; an encoder of 22 million weights reads some thirty a second


class Labelled(Protocol):
    """A text and the index of its label; every reader of attnlab.datasets gives such rows."""

    @property
    def text(self) -> str: ...
    @property
    def label(self) -> int: ...


@dataclass(frozen=True)
class Progress:
    """Where training is: done goes from 0 to 1; losses in nats, accuracy on the validation texts."""

    epoch: int
    done: float
    loss: float
    validation: float
    accuracy: float
    seconds: float


def build(
    kind: str, vocabulary: Vocabulary, labels: Sequence[str], configuration: dict | None = None
) -> WordClassifier:
    """A word classifier with random weights; configuration: sizes that differ from the default."""
    c = configuration or {}
    if kind == "bilstm":
        return bilstm.BiLSTM(vocabulary, labels, bilstm.Configuration(**c))
    if kind == "transformer":
        return text_transformer.TextTransformer(
            vocabulary, labels, text_transformer.Configuration(**c)
        )
    raise InputError(f"model {kind!r} is none of {', '.join(KINDS)}{suggest(kind, KINDS)}")


def train(
    kind: str,
    rows: Iterable[Labelled],
    *,
    seed: int = 0,
    seconds: float = 60.0,
    progress: Callable[[Progress], None] | None = None,
    validation: Iterable[Labelled] | None = None,
    extra: Iterable[Labelled] = (),
    labels: Sequence[str] | None = None,
    configuration: dict | None = None,
    epochs: int = 16,
    patience: int = 6,
    batch: int = 32,
    lr: float = 2e-3,
    weight_decay: float = 1e-2,
) -> Classifier:
    """A classifier trained on labelled texts: the weights that did best on the validation texts.

    kind: "bilstm", "transformer", or "bert" (whose head alone is fitted, on 2000 texts at most).
    rows: texts with labels 0, 1, … (names: `labels`). validation: held-out ones, by default a tenth
    of `rows`. extra: more to train on, not to be held out. seconds: training ends by then; it ends
    earlier when `patience` epochs bring nothing, and on Ctrl-C. Deterministic for one seed as long
    as the time does not end it.

    InputError for no texts, one label only, or labels that are not 0, 1, …
    """
    rows, extra = list(rows), list(extra)
    if kind not in KINDS:
        raise InputError(f"model {kind!r} is none of {', '.join(KINDS)}{suggest(kind, KINDS)}")
    chance = random.Random(seed)
    if validation is None:
        chance.shuffle(rows)
        cut = max(1, len(rows) // 10)
        validation, rows = rows[:cut], rows[cut:]
    held = list(validation)
    labels = _labels([*rows, *extra, *held], labels)
    if not rows or not held:
        raise InputError("training needs at least two texts: one to learn, one to validate with")
    if kind == "bert":
        return _fit_bert(chance, [*rows, *extra], held, labels, progress)
    torch.manual_seed(seed)
    model = _beginning(kind, [r.text for r in [*rows, *extra]], labels, configuration)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    data, held_data = _encoded(model, [*rows, *extra]), _encoded(model, held)
    best, best_weights, waited = float("inf"), copy.deepcopy(model.state_dict()), 0
    start = time.monotonic()
    try:
        for epoch in range(epochs):
            model.train()
            total, batches = 0.0, _batches(data, batch)
            for step, some in enumerate(batches):
                elapsed = (time.monotonic() - start) / seconds
                done = max((epoch + step / len(batches)) / epochs, elapsed)
                if elapsed > 1:
                    break
                for group in optimizer.param_groups:  # a cosine down to nothing
                    group["lr"] = lr * (1 + cos(pi * min(1, done))) / 2
                loss = _loss(model, some, drop=0.1)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += loss.item() * len(some) / len(data)
            validated, accuracy = evaluate(model, held_data)
            waited = 0 if validated < best else waited + 1
            if validated < best:
                best, best_weights = validated, copy.deepcopy(model.state_dict())
            took = time.monotonic() - start
            over = took > seconds or waited >= patience or epoch + 1 == epochs
            if progress is not None:
                done = 1.0 if over else max((epoch + 1) / epochs, took / seconds)
                progress(Progress(epoch + 1, done, total, validated, accuracy, took))
            if over:
                break
    except KeyboardInterrupt:
        pass  # the reader has seen enough: what was best so far is the result
    model.load_state_dict(best_weights)
    return model.eval()


Example = tuple[Encoded, int]


def evaluate(model: Classifier, data: Sequence[Example]) -> tuple[float, float]:
    """Mean loss (nats) and accuracy, in batches of like length."""
    model.eval()
    order = sorted(range(len(data)), key=lambda i: len(data[i][0]))
    loss = right = 0.0
    with torch.inference_mode():
        for first in range(0, len(order), 128):
            ids, mask, y = _batch(model, [data[i] for i in order[first : first + 128]])
            logits = model(model.embed(ids, mask), mask)
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(1) == y).sum().item()
    return loss / len(data), right / len(data)


def accuracy(model: Classifier, rows: Iterable[Labelled]) -> float:
    """The share of texts to which a classifier gives their label."""
    return evaluate(model, _encoded(model, list(rows)))[1]


def _labels(rows: Sequence[Labelled], names: Sequence[str] | None) -> tuple[str, ...]:
    found = {r.label for r in rows}
    if len(found) < 2:
        raise InputError(f"training needs texts of two labels or more, found {sorted(found)}")
    count = max(found) + 1 if names is None else len(names)
    if min(found) < 0 or max(found) >= count or count > 1000:
        raise InputError(f"labels must be 0 … {count - 1}, found {min(found)} to {max(found)}")
    if names is not None:
        return tuple(names)
    return NAMES if count == 2 else tuple(map(str, range(count)))


def _encoded(model: Classifier, rows: Sequence[Labelled]) -> list[Example]:
    return [(model.encode(r.text), r.label) for r in rows]


def _batches(data: Sequence[Example], size: int) -> list[list[Example]]:
    """Random batches of texts of like length, in random order: less padding to compute with."""
    order, batches = torch.randperm(len(data)).tolist(), []
    for first in range(0, len(order), 16 * size):
        some = sorted((data[i] for i in order[first : first + 16 * size]), key=lambda x: len(x[0]))
        batches += [some[i : i + size] for i in range(0, len(some), size)]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]


def _batch(model: Classifier, data: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    ids, mask = pad([encoded for encoded, _ in data], model.pad_id)
    return ids, mask, torch.tensor([label for _, label in data])


def _loss(model: WordClassifier, data: Sequence[Example], drop: float) -> Tensor:
    """Cross-entropy; a share of the words is hidden, so that [MASK] and [UNK] get a meaning."""
    ids, mask, y = _batch(model, data)
    chance = torch.rand(ids.shape)
    word = ids >= len(SPECIAL)
    assert model.mask_id is not None
    ids = ids.masked_fill(word & (chance < drop), model.mask_id)
    ids = ids.masked_fill(word & (chance < drop / 2), model.vocabulary.ids[UNKNOWN])
    return F.cross_entropy(model(model.embed(ids, mask), mask), y, label_smoothing=0.1)


def _beginning(
    kind: str, texts: Iterable[str], labels: Sequence[str], configuration: dict | None
) -> WordClassifier:
    """A model whose words have the shipped vectors; words without one begin near zero."""
    from attnlab.models import word_vectors

    vectors = word_vectors.load()
    width = vectors.table.shape[1]
    vocabulary = Vocabulary.of(texts, others=vectors.words)
    model = build(kind, vocabulary, labels, {"width": width} | (configuration or {}))
    with torch.no_grad():
        torch.nn.init.normal_(model.embedding.weight, std=0.1)
        if model.embedding.weight.shape[1] == width:
            rows = [vocabulary.ids[word] for word in vectors.words]
            model.embedding.weight[rows] = torch.from_numpy(vectors.table)
        model.embedding.weight[model.pad_id] = 0
    return model


def _fit_bert(
    chance: random.Random,
    rows: list[Labelled],
    held: list[Labelled],
    labels: Sequence[str],
    progress: Callable[[Progress], None] | None,
) -> Classifier:
    from attnlab.models.bert import Bert, pretrained_folder

    start = time.monotonic()
    model = Bert(pretrained_folder(), labels)
    rows = chance.sample(rows, min(len(rows), READ_BY_BERT))
    held = chance.sample(held, min(len(held), READ_BY_BERT // 4))

    def show(done: int, of: int) -> None:
        if progress is not None:
            progress(Progress(1, done / of, nan, nan, nan, time.monotonic() - start))

    model.fit(rows, held, progress=show)
    return model
