"""Cranfield: 1400 abstracts on aerodynamics, 225 queries, relevance judgements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from attnlab.datasets.files import FormatError, locate, read_lines

FIELDS = {".T": "title", ".A": "authors", ".B": "source", ".W": "text"}


@dataclass(frozen=True)
class Record:
    """A record of the SMART format; fields that a record lacks are empty."""

    number: int
    title: str = ""
    authors: str = ""
    source: str = ""
    text: str = ""


class Cranfield(NamedTuple):
    """Documents by number, queries by ordinal (1, 2, …), judgements query -> document -> grade."""

    documents: dict[int, Record]
    queries: dict[int, str]
    judgements: dict[int, dict[int, int]]


def cranfield(folder: str | Path | None = None) -> Cranfield:
    """Read cran.all.1400, cran.qry and cranqrel from a folder.

    Judgements number the queries by their order in cran.qry; the `.I` numbers there skip some.
    Grades are as published: 1 to 4 from complete answers down to minimal interest, and -1 for one
    document a query.
    """
    here = Path(folder) if folder is not None else None
    documents = read_records(locate(here and here / "cran.all.1400", "cranfield", "cran.all.1400"))
    asked = read_records(locate(here and here / "cran.qry", "cranfield", "cran.qry"))
    return Cranfield(
        {document.number: document for document in documents},
        {ordinal: query.text for ordinal, query in enumerate(asked, start=1)},
        read_judgements(locate(here and here / "cranqrel", "cranfield", "cranqrel")),
    )


def read_records(path: Path) -> list[Record]:
    """Records of a SMART file: `.I number`, then fields .T .A .B .W in this order, each optional.

    A marker out of this order is a slip inside a text (Cranfield has three); the text goes on.
    """
    records: list[Record] = []
    parts: dict[str, list[str]] = {}
    number: int | None = None
    marker = ""
    order = list(FIELDS)

    def finish() -> None:
        if number is not None:
            fields = {FIELDS[m]: " ".join(" ".join(p).split()) for m, p in parts.items()}
            records.append(Record(number, **fields))

    for place, line in enumerate(read_lines(path), start=1):
        head = line.strip()
        if line.startswith(".I"):
            finish()
            if not head[2:].strip().isdigit():
                raise FormatError(path, place, ".I and a number", line)
            number, marker, parts = int(head[2:]), "", {}
        elif number is None:
            raise FormatError(path, place, ".I and a number before anything else", line)
        elif head in FIELDS:
            if not marker or order.index(head) > order.index(marker):
                marker = head
                parts[marker] = []
        elif marker:
            parts[marker].append(line)
        elif head:
            raise FormatError(path, place, "one of .T .A .B .W", line)
    finish()
    if not records:
        raise FormatError(path, 1, ".I and a number", "")
    return records


def read_judgements(path: Path) -> dict[int, dict[int, int]]:
    """Judgements from lines `query document grade`."""
    judgements: dict[int, dict[int, int]] = {}
    for place, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            query, document, grade = (int(word) for word in line.split())
        except ValueError as error:
            raise FormatError(path, place, "three integers: query document grade", line) from error
        judgements.setdefault(query, {})[document] = grade
    return judgements
