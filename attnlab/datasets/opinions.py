"""Opinion words written for this project, and short phrases made of them.

Four hundred reviews hold few of the words by which people praise and complain. A small model that
shall read other texts learns them, and what a negation does to them, from these phrases.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from attnlab.paths import data_dir

FLIP = ("not", "not very", "never", "hardly", "n't", "is n't", "was n't", "far from", "no longer")
KEEP = ("", "very", "so", "really", "quite", "truly", "is", "was", "the", "it was", "and")


class Opinion(NamedTuple):
    """A word or phrase, and whether it praises (1) or complains (0)."""

    text: str
    label: int


def opinions() -> list[Opinion]:
    """The words, in the file's order."""
    file = data_dir() / "classifiers" / "opinions.tsv"
    lines = file.read_text(encoding="utf-8").splitlines()
    words = (line.split("\t") for line in lines)
    return [Opinion(word, ("negative", "positive").index(label)) for word, label in words]


def phrases(count: int, seed: int = 0) -> list[Opinion]:
    """Random phrases: a word alone or strengthened, negated, or "A but B", which says what B says."""
    chance, words = random.Random(seed), opinions()

    def simple() -> Opinion:
        word = chance.choice(words)
        if chance.random() < 0.3:
            return Opinion(f"{chance.choice(FLIP)} {word.text}", 1 - word.label)
        return Opinion(f"{chance.choice(KEEP)} {word.text}".strip(), word.label)

    made = []
    for _ in range(count):
        a, b = simple(), simple()
        kind = chance.random()
        if kind < 0.6:
            made.append(a)
        elif kind < 0.75 and a.label != b.label:
            made.append(Opinion(f"{a.text} but {b.text}", b.label))
        else:
            same = a if a.label == b.label else b
            made.append(Opinion(f"{same.text} and {b.text}", b.label))
    return made
