"""The embedded reviews: short texts written for this project, with the words that carry the label."""

from __future__ import annotations

import json
from typing import Literal, NamedTuple, get_args

from attnlab.contract import InputError, suggest
from attnlab.datasets.labelled import words_in
from attnlab.paths import data_dir

Split = Literal["train", "validation", "test"]
DOMAINS = ("films", "restaurants", "gadgets", "books")
TAGS = ("negation", "contrast", "irony", "plain")


class LabelledText(NamedTuple):
    """A review. label: 1 positive, 0 negative. aspect: what it is about, e.g. "acting", "battery".

    rationale: [start, end) character spans of `text` that carry the label. tags: of TAGS; "plain"
    where it is none of the others.
    """

    text: str
    label: int
    domain: str
    split: str
    aspect: str
    rationale: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]
    id: str

    def words(self) -> list[str]:
        """The whitespace-separated words, punctuation on them."""
        return self.text.split()

    def rationale_words(self) -> tuple[bool, ...]:
        """For each word, whether it belongs to the rationale."""
        return words_in(self.text, self.rationale)


def reviews(split: Split | None = None, domain: str | None = None) -> list[LabelledText]:
    """The reviews of one split and one domain, or of all. InputError for a name that is neither."""
    for what, name, known in (("split", split, get_args(Split)), ("domain", domain, DOMAINS)):
        if name is not None and name not in known:
            raise InputError(f"{what} {name!r} is none of {', '.join(known)}{suggest(name, known)}")
    with (data_dir() / "reviews" / "reviews.jsonl").open(encoding="utf-8") as lines:
        every = [_review(json.loads(line)) for line in lines]
    return [r for r in every if split in (None, r.split) and domain in (None, r.domain)]


def _review(found: dict) -> LabelledText:
    return LabelledText(
        found["text"],
        ("negative", "positive").index(found["label"]),
        found["domain"],
        found["split"],
        found["aspect"],
        tuple((start, end) for start, end in found["rationale"]),
        tuple(found["tags"]),
        found["id"],
    )
