"""The English reference text of the Python language, which every Python carries.

`pydoc_data.topics` holds about 80 help topics, 465 kB. Topics repeat one another's sections, so a
paragraph is kept once only, and what the validation part holds is removed from the training part:
no paragraph is in both. Topics go to the validation part by a hash of their names, so that the same
topics are held out on every Python version, whatever else has changed in the text.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple


class Corpus(NamedTuple):
    """Two texts that share no paragraph."""

    train: str
    validation: str


def python_reference() -> Corpus:
    """Training and validation text, about 330 and 43 thousand characters."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    held_out = [name for name in names if zlib.crc32(name.encode()) % 10 == 0]
    seen: set[str] = set()
    validation = _unseen_paragraphs((topics[name] for name in held_out), seen)
    train = _unseen_paragraphs((topics[name] for name in names if name not in held_out), seen)
    return Corpus(train, validation)


def _unseen_paragraphs(texts, seen: set[str]) -> str:
    kept: list[str] = []
    for text in texts:
        for paragraph in text.split("\n\n"):
            key = " ".join(
                paragraph.split()
            )  # the same paragraph indented elsewhere is a repeat too
            if key and key not in seen:
                seen.add(key)
                kept.append(paragraph.strip("\n"))
    return "\n\n".join(kept) + "\n"
