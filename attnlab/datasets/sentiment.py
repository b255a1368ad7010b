"""Labelled sentences: Stanford Sentiment Treebank, IMDB reviews, SemEval-2014 aspects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from attnlab.datasets.files import FormatError, locate, read_lines


@dataclass(frozen=True)
class Tree:
    """A node of a sentiment tree: label 0–4 (2 neutral), and a word or two parts."""

    label: int
    word: str | None = None
    parts: tuple[Tree, ...] = ()

    def leaves(self) -> list[Tree]:
        """The words' nodes, from left to right; each has a human label of its own."""
        return [self] if self.word is not None else [n for p in self.parts for n in p.leaves()]

    def words(self) -> list[str]:
        """The sentence."""
        return [str(leaf.word) for leaf in self.leaves()]


def sst(path: str | Path | None = None, *, split: str = "dev") -> list[Tree]:
    """Stanford Sentiment Treebank (Socher et al., 2013): one PTB tree a line, `(3 (2 It) (4 …))`."""
    file = locate(path, "sst", f"{split}.txt")
    trees = [
        parse_tree(file, i, line) for i, line in enumerate(read_lines(file), 1) if line.strip()
    ]
    if not trees:
        raise FormatError(file, 1, "a tree such as (2 (2 a) (3 word))", "")
    return trees


def parse_tree(file: Path, place: int, line: str) -> Tree:
    """The tree on line `place` of `file`; FormatError names both."""
    expected = "a tree such as (2 (2 a) (3 word))"
    tokens = re.findall(r"[()]|[^ ()]+", line)  # a word may hold a no-break space
    open_nodes: list[tuple[int, list[Tree | str]]] = []
    finished: Tree | None = None
    i = 0
    while i < len(tokens):
        if finished is not None:
            raise FormatError(file, place, f"{expected}, one a line", line)
        if tokens[i] == "(":
            label = tokens[i + 1] if i + 1 < len(tokens) else ""
            if label not in {"0", "1", "2", "3", "4"}:
                raise FormatError(file, place, "a label 0-4 after each (", line)
            open_nodes.append((int(label), []))
            i += 2
            continue
        if not open_nodes:
            raise FormatError(file, place, expected, line)
        if tokens[i] == ")":
            number, inside = open_nodes.pop()
            words = [x for x in inside if isinstance(x, str)]
            parts = [x for x in inside if isinstance(x, Tree)]
            if len(words) + bool(parts) != 1:  # one word, or parts: not both, not neither
                raise FormatError(file, place, "one word or parts in each node", line)
            node = Tree(number, words[0] if words else None, tuple(parts))
            if open_nodes:
                open_nodes[-1][1].append(node)
            else:
                finished = node
        else:
            open_nodes[-1][1].append(tokens[i])
        i += 1
    if finished is None:
        raise FormatError(file, place, f"{expected} with every bracket closed", line)
    return finished


class Review(NamedTuple):
    """A text and whether it is positive (1) or negative (0)."""

    text: str
    label: int


def imdb(path: str | Path | None = None) -> list[Review]:
    """IMDB reviews (Maas et al., 2011): a line is the text, a TAB (or its last comma), 0 or 1."""
    file = locate(path, "imdb", "dev_1200.csv")
    reviews = []
    for place, line in enumerate(read_lines(file), start=1):
        text, separator, label = line.rpartition("\t" if "\t" in line else ",")
        if not separator or label.strip() not in {"0", "1"}:
            raise FormatError(file, place, "text TAB label, the label 0 or 1", line[-60:])
        reviews.append(Review(text, int(label)))
    return reviews


class Opinion(NamedTuple):
    """A sentence's words, where its aspect lies among them, and the polarity -1, 0 or 1."""

    words: list[str]
    aspect: slice
    polarity: int


def semeval(path: str | Path | None = None, *, split: str = "Train") -> list[Opinion]:
    """SemEval-2014 task 4, restaurants: sentence with `$T$`, aspect, polarity on three lines."""
    file = locate(path, "semeval14", f"Restaurants_{split}.xml.seg")
    lines = read_lines(file)
    if len(lines) % 3:
        raise FormatError(file, len(lines), "three lines an instance", f"{len(lines)} lines")
    opinions = []
    for place in range(0, len(lines), 3):
        opinions.append(parse_opinion(file, place + 1, *lines[place : place + 3]))
    return opinions


def parse_opinion(file: Path, place: int, sentence: str, aspect: str, polarity: str) -> Opinion:
    """The instance that begins on line `place` of `file`; FormatError names both."""
    if sentence.count("$T$") != 1:
        raise FormatError(file, place, "a sentence with one $T$", sentence)
    if polarity.strip() not in {"-1", "0", "1"}:
        raise FormatError(file, place + 2, "a polarity -1, 0 or 1", polarity)
    before, after = (side.split() for side in sentence.split("$T$"))
    inside = slice(len(before), len(before) + len(aspect.split()))
    return Opinion(before + aspect.split() + after, inside, int(polarity))
