"""Words as tokens: how the BiLSTM and the small transformer read a text.

Lower-cased words, numbers and punctuation marks; contractions are split as in the Penn Treebank
("don't" is "do" and "n't"), so that a negation is a token of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from attnlab.models.classifier import Classifier, Encoded

PAD, MASK, UNKNOWN, CLS = "[PAD]", "[MASK]", "[UNK]", "[CLS]"
SPECIAL = (PAD, MASK, UNKNOWN, CLS)

TOKEN = re.compile(
    r"""n['’]t\b                      # the negation of don't
      | ['’](?:s|re|ve|ll|d|m)\b      # the ends of it's, we're, I've …
      | [^\W\d_]+?(?=n['’]t\b)        # what the negation follows
      | [^\W\d_]+(?:-[^\W\d_]+)*      # words, hyphens inside
      | \d+(?:[.,:]\d+)*              # numbers
      | \.{2,} | _+ | [^\w\s]         # an ellipsis; one mark of punctuation
    """,
    re.VERBOSE | re.IGNORECASE,
)


class Token(NamedTuple):
    """A piece of text, and which whitespace-separated word it belongs to."""

    text: str
    word: int


def tokenize(text: str) -> list[Token]:
    """The tokens of a text, as written."""
    return [
        Token(piece, place)
        for place, word in enumerate(text.split())
        for piece in TOKEN.findall(word)
    ]


def normal(token: str) -> str:
    """A token as the vocabulary holds it."""
    return token.lower().replace("’", "'")


class Vocabulary:
    """Words and their ids; the special tokens come first.

    A word that is not in it is read as the word that it extends ("disappointingly" as
    "disappointing"), otherwise as the parts around its hyphens allow, otherwise as [UNK].
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = [*SPECIAL, *(w for w in dict.fromkeys(words) if w not in SPECIAL)]
        self.ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.ids

    def id(self, token: str) -> int:
        """The id of a token of a text."""
        word = normal(token)
        if word in self.ids:
            return self.ids[word]
        for part in (word, *reversed(word.split("-"))):
            # Up to four letters may follow a stem of at least four; -less would turn its meaning.
            stems = (part[:end] for end in range(len(part), max(3, len(part) - 5), -1))
            for stem in stems:
                if stem in self.ids and not part.removeprefix(stem).startswith("less"):
                    return self.ids[stem]
        return self.ids[UNKNOWN]

    @classmethod
    def of(cls, texts: Iterable[str], *, least: int = 1, others: Iterable[str] = ()) -> Vocabulary:
        """The words that occur at least `least` times, most frequent first, and then `others`."""
        counted = Counter(normal(token.text) for text in texts for token in tokenize(text))
        frequent = [w for w, n in sorted(counted.items(), key=lambda x: (-x[1], x[0]))]
        return cls([*(w for w in frequent if counted[w] >= least), *others])

    def save(self, path: Path) -> None:
        """One word a line, without the special tokens."""
        path.write_text("\n".join(self.words[len(SPECIAL) :]) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a vocabulary written by `save`."""
        return cls(path.read_text(encoding="utf-8").split("\n")[:-1])


class WordClassifier(Classifier):
    """A classifier that reads words; `leading` special tokens stand before the text."""

    kind: str
    leading: tuple[str, ...] = ()
    embedding: nn.Embedding  # the words' vectors; that of [PAD] is zero

    def __init__(self, vocabulary: Vocabulary, labels: Sequence[str]) -> None:
        super().__init__()
        if len(labels) < 2:
            raise ValueError(f"a classifier needs two labels or more, got {list(labels)}")
        self.vocabulary, self.labels = vocabulary, tuple(labels)
        self.pad_id, self.mask_id = vocabulary.ids[PAD], vocabulary.ids[MASK]

    def encode(self, text: str) -> Encoded:
        found = tokenize(text)
        if not found:
            raise ValueError(f"the text {text!r} has no word")
        n = len(self.leading)
        return Encoded(
            tokens=(*self.leading, *(token.text for token in found)),
            ids=np.array(
                [self.vocabulary.ids[t] for t in self.leading]
                + [self.vocabulary.id(token.text) for token in found],
                dtype=np.int64,
            ),
            special=np.arange(n + len(found)) < n,
            words=np.array([-1] * n + [token.word for token in found]),
        )


def require_tokens(mask: Tensor) -> None:
    """ValueError for a row that has no token to read."""
    empty = torch.nonzero(~mask.any(dim=1)).flatten()
    if len(empty):
        raise ValueError(f"row {int(empty[0])} of the mask has no token")
