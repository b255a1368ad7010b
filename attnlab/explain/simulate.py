"""Does an explanation let a reader guess what the model said? An automatic reader tries.

    reader = WordReader.fit(texts, labels)            # or ModelReader(model)
    measure(verbalizations, predicted, reader)        # simulatability, coverage@k, inventions

People in the study of Feldhus et al. (2023) saw an explanation whose label was hidden, and guessed
the model's prediction; simulatability is the share of right guesses. An automatic reader sees less
than they did, the quoted words alone: what it gains from a sentence is what the sentence names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from attnlab.contract import InputError
from attnlab.explain.statistics import Mean, Running
from attnlab.explain.verbalize import Verbalization


class Reader(Protocol):
    """Guesses a label from each quotation, a list of words; None where they tell it nothing."""

    def guesses(self, quotations: Sequence[Sequence[str]], /) -> list[str | None]: ...


@dataclass(frozen=True)
class WordReader:
    """Adds up what each word is known to say for each label.

    weights: word -> one number a label. A tie of the best labels is no guess.
    """

    labels: tuple[str, ...]
    weights: Mapping[str, Float[np.ndarray, "labels"]]

    @classmethod
    def fit(
        cls, texts: Iterable[str], labels: Iterable[str], *, smoothing: float = 1.0
    ) -> WordReader:
        """Log-odds of words in labelled texts (naive Bayes, whose prior is left out). InputError
        for fewer than two labels."""
        seen: dict[str, Counter[str]] = {}
        for text, label in zip(texts, labels, strict=True):
            seen.setdefault(str(label), Counter()).update(
                set(re.findall(r"[\w'’-]+", text.lower()))
            )
        if len(seen) < 2:
            raise InputError("a reader needs texts of at least two labels")
        names, words = tuple(sorted(seen)), sorted(set().union(*seen.values()))
        counts = np.array([[seen[name][word] for name in names] for word in words])
        share = np.log((counts + smoothing) / (counts + smoothing).sum(0))
        return cls(names, dict(zip(words, share - share.mean(1, keepdims=True))))

    def guesses(self, quotations: Sequence[Sequence[str]], /) -> list[str | None]:
        return [self.guess(words) for words in quotations]

    def guess(self, words: Sequence[str]) -> str | None:
        known = [self.weights[w] for w in words if w in self.weights]
        if not known:
            return None
        total = np.sum(known, axis=0)
        best = np.flatnonzero(total == total.max())
        return self.labels[best[0]] if len(best) == 1 else None


@dataclass(frozen=True)
class ModelReader:
    """A classifier that reads the quoted words as if they were the text."""

    model: Any
    batch: int = 64

    def guesses(self, quotations: Sequence[Sequence[str]], /) -> list[str | None]:
        import torch

        from attnlab.models.classifier import pad

        found: list[str | None] = [None] * len(quotations)
        encoded = []
        for place, words in enumerate(quotations):
            try:
                encoded.append((place, self.model.encode(" ".join(words))))
            except ValueError:  # no word of the model's: no guess
                continue
        encoded.sort(key=lambda pair: len(pair[1]))
        for start in range(0, len(encoded), self.batch):
            part = encoded[start : start + self.batch]
            ids, mask = pad([text for _, text in part], self.model.pad_id)
            with torch.no_grad():
                best = self.model(self.model.embed(ids, mask), mask).argmax(-1).tolist()
            for (place, _), label in zip(part, best):
                found[place] = str(self.model.labels[label])
        return found


@dataclass(frozen=True)
class Measured:
    """What a way of verbalizing is worth, over a set of texts.

    simulatability: share of guesses that equal the prediction, no guess being wrong; abstained: how
    often there was none. coverage_at_k, ceiling_at_k: k = 1..10; texts without positive attribution
    are undefined. invented: share of quoted words that the text does not contain.
    """

    simulatability: Mean
    abstained: int
    coverage: Mean
    coverage_at_k: tuple[Mean, ...]
    ceiling_at_k: tuple[Mean, ...]
    invented: Mean

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def simulated(
    verbalizations: Sequence[Verbalization], predicted: Sequence[str], reader: Reader
) -> list[bool | None]:
    """Whether the reader guesses each prediction; None where it does not guess."""
    guesses = reader.guesses([v.quoted for v in verbalizations])
    return [None if g is None else g == p for g, p in zip(guesses, predicted, strict=True)]


def measure(
    verbalizations: Sequence[Verbalization],
    predicted: Sequence[str],
    reader: Reader,
    *,
    seed: int = 0,
) -> Measured:
    """Simulatability, coverage and inventions, each with its interval. predicted: labels' names."""
    right = simulated(verbalizations, predicted, reader)
    running = Running(23, seed=seed)
    for said, hit in zip(verbalizations, right):
        defined = 1.0 if np.isfinite(said.coverage) else np.nan
        curves = np.array([*said.coverage_at_k, *said.ceiling_at_k]) * defined
        running.add(np.array([float(bool(hit)), said.coverage, said.invented, *curves]))
    simulatability, coverage, invented, *curve = running.means()
    return Measured(
        simulatability=simulatability,
        abstained=right.count(None),
        coverage=coverage,
        coverage_at_k=tuple(curve[:10]),
        ceiling_at_k=tuple(curve[10:]),
        invented=invented,
    )
