"""A user's file of labelled texts as a stream: whatever its size, one instance is held at a time.

    sst      Stanford Sentiment Treebank: one tree a line; sentences of label 2 are left out
    imdb     text TAB label, or text,label (the last comma; a text in quotes as in CSV), two classes
    semeval  SemEval-2014: sentence with $T$, aspect, polarity on three lines; 0 is left out
    tsv      text TAB label, any number of classes
    jsonl    one object a line: text, label, and perhaps rationale

A label is a whole number from 0, or negative / positive (neg / pos), which are 0 and 1. The first
line of imdb and tsv files may be a header.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.contract import InputError, suggest
from attnlab.datasets.files import FormatError, locate
from attnlab.datasets.sentiment import parse_opinion, parse_tree

LONGEST = 1 << 20  # bytes of a line; what is longer is skipped, not held
SAMPLE = 30  # lines that are looked at to tell the format
NAMES = {"negative": 0, "neg": 0, "positive": 1, "pos": 1}
HEADERS = {"label", "labels", "sentiment", "class", "polarity", "target"}


class Row(NamedTuple):
    """One labelled text. rationale: for each word of `text.split()`, whether people named it as
    evidence for the label; None where the file does not say. line: where it begins, from 1."""

    text: str
    label: int
    rationale: tuple[bool, ...] | None
    line: int


class Bad(NamedTuple):
    """A line that is not in the file's format, and why."""

    line: int
    reason: str


Line = tuple[int, str]


def read(path: str | Path, format: str = "auto") -> Iterator[Row | Bad]:
    """The instances of a file in their order; what is malformed comes as a `Bad`, in its place.

    Raises InputError for an unknown format name, DatasetMissing where there is no file, and, with
    "auto", FormatError where the first lines are in none of the formats. Blank lines are skipped.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError(
            f"format {format!r} is none of auto, {', '.join(FORMATS)}"
            + suggest(format, ["auto", *FORMATS])
        )
    file = locate(path)
    return FORMATS[detect(file) if format == "auto" else format](file, _lines(file))


def detect(path: str | Path) -> str:
    """The format that most of a file's first lines are in; FormatError where they are in none."""
    file = locate(path)
    votes = dict.fromkeys(FORMATS, 0)
    first = ""
    for place, line in _lines(file):
        if isinstance(line, Bad):
            first = first or f"line {line.line}: {line.reason}"
            continue
        first = first or line
        if name := _looks_like(line):
            votes[name] += 1
        if place >= SAMPLE:
            break
    best = max(votes, key=lambda name: votes[name])
    if not votes[best]:
        expected = f"a file in one of the formats {', '.join(FORMATS)}"
        raise FormatError(file, 1, expected, first or "nothing: it is empty")
    return best


def _looks_like(line: str) -> str | None:
    if re.match(r"\s*\([0-4] ", line):
        return "sst"
    if line.lstrip().startswith("{"):
        return "jsonl"
    if "$T$" in line:
        return "semeval"
    separator = "\t" if "\t" in line else ","
    text, _, label = line.rpartition(separator)
    if not text.strip() or _number(label) is None:
        return None
    return "tsv" if separator == "\t" else "imdb"


def _lines(file: Path) -> Iterator[tuple[int, str | Bad]]:
    """Numbered lines that are not blank, without their ends; `Bad` for what cannot be text."""
    with file.open("rb") as stream:
        place = 0
        while raw := stream.readline(LONGEST):
            place += 1
            if len(raw) == LONGEST and not raw.endswith(b"\n"):
                while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                    pass
                yield place, Bad(place, f"the line is longer than {LONGEST} bytes")
                continue
            try:
                line = raw.decode("utf-8-sig" if place == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                found = raw[error.start : error.end]
                yield place, Bad(place, f"expected UTF-8 text, found {found!r}")
                continue
            if line.strip():
                yield place, line


def _number(label: object) -> int | None:
    """The class that a label stands for, or None."""
    if isinstance(label, str):
        name = label.strip().lower()
        return int(name) if re.fullmatch(r"[0-9]{1,6}", name) else NAMES.get(name)
    return label if type(label) is int and label >= 0 else None


def _by_line(parse: Callable[[Path, int, str], Row | None]) -> Callable[..., Iterator[Row | Bad]]:
    """A reader of one instance a line; what `parse` gives as None is left out."""

    def rows(file: Path, lines: Iterable[tuple[int, str | Bad]]) -> Iterator[Row | Bad]:
        for place, line in lines:
            if isinstance(line, Bad):
                yield line
                continue
            try:
                row = parse(file, place, line)
            except FormatError as error:
                row = None
                yield Bad(place, error.reason)
            except RecursionError:
                row = None
                yield Bad(place, "nested too deeply")
            if row is not None:
                yield row

    return rows


def _sst(file: Path, place: int, line: str) -> Row | None:
    """Binary as in the literature; a word is evidence when its own polarity agrees."""
    tree = parse_tree(file, place, line)
    if tree.label == 2:
        return None
    positive = tree.label > 2
    rationale: list[bool] = []
    for leaf in tree.leaves():
        agrees = leaf.label >= 3 if positive else leaf.label <= 1
        rationale += [agrees] * len(str(leaf.word).split())  # a few leaves hold a no-break space
    return Row(" ".join(tree.words()), int(positive), tuple(rationale), place)


def _imdb(file: Path, place: int, line: str) -> Row | None:
    if "\t" in line:
        text, _, label = line.rpartition("\t")
    elif line.lstrip().startswith('"'):
        try:
            fields = next(csv.reader([line.strip()]))
        except csv.Error as error:
            raise FormatError(file, place, f"a quoted text, label ({error})", line) from error
        text, label = fields if len(fields) == 2 else (line, "")
    else:
        text, _, label = line.rpartition(",")
    return _two_fields(file, place, text, label, "text TAB label, the label 0 or 1", most=1)


def _tsv(file: Path, place: int, line: str) -> Row | None:
    text, _, label = line.rpartition("\t")
    return _two_fields(file, place, text, label, "text TAB label, the label a number or pos/neg")


def _two_fields(
    file: Path, place: int, text: str, label: str, expected: str, most: int = 999_999
) -> Row | None:
    if place == 1 and label.strip().strip('"').lower() in HEADERS:
        return None
    number = _number(label)
    if number is None or number > most or not text.strip():
        raise FormatError(file, place, expected, f"{text[-30:]} | {label}" if text else label)
    return Row(text.strip(), number, None, place)


def _jsonl(file: Path, place: int, line: str) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(file, place, f"a JSON object ({error})", line) from error
    if not isinstance(found, dict):
        raise FormatError(file, place, "a JSON object", line)
    text, number = found.get("text"), _number(found.get("label"))
    if not isinstance(text, str) or not text.strip():
        raise FormatError(file, place, '"text", a string that is not blank', repr(text))
    if number is None:
        expected = '"label", a number or positive/negative'
        raise FormatError(file, place, expected, repr(found.get("label")))
    rationale = found.get("rationale")
    if rationale is None:
        return Row(text, number, None, place)
    words = _flags(text, rationale)
    if words is None:
        expected = '"rationale", 0/1 for each word or [start, end] character spans'
        raise FormatError(file, place, expected, repr(rationale))
    return Row(text, number, words, place)


def _flags(text: str, rationale: Any) -> tuple[bool, ...] | None:
    """Whether each word is marked, from either way to write it; None for what is neither."""
    if not isinstance(rationale, list):
        return None
    if all(isinstance(r, list) for r in rationale):  # an empty list marks nothing
        ends = (0, len(text))
        for span in rationale:
            if len(span) != 2 or not all(type(x) is int for x in span):
                return None
            if not ends[0] <= span[0] < span[1] <= ends[1]:
                return None
        return words_in(text, rationale)
    if len(rationale) != len(text.split()) or any(r not in (0, 1) for r in rationale):
        return None
    return tuple(bool(r) for r in rationale)


def words_in(text: str, spans: Iterable[Iterable[int]]) -> tuple[bool, ...]:
    """For each word of `text.split()`, whether it shares a character with one of the [start, end) spans."""
    inside = [tuple(span) for span in spans]
    return tuple(
        any(start < word.end() and word.start() < end for start, end in inside)
        for word in re.finditer(r"\S+", text)
    )


def _semeval(file: Path, lines: Iterable[tuple[int, str | Bad]]) -> Iterator[Row | Bad]:
    """Three lines an instance. After a malformed one the next line that holds $T$ begins anew."""
    waiting: list[Line] = []
    lost = False  # lines up to the next sentence belong to an instance reported already
    for place, line in lines:
        if isinstance(line, Bad):
            yield line
            waiting, lost = [], True
            continue
        if "$T$" in line:
            if waiting:
                yield Bad(waiting[0][0], "expected three lines: sentence, aspect, polarity")
            waiting, lost = [(place, line)], False
            continue
        if not waiting:
            if not lost:
                yield Bad(place, f"expected a sentence with one $T$, found {line[:60]!r}")
            lost = True
            continue
        waiting.append((place, line))
        if len(waiting) == 3:
            begin = waiting[0][0]
            try:
                opinion = parse_opinion(file, begin, *(text for _, text in waiting))
            except FormatError as error:
                yield Bad(begin, error.reason)
                lost = True
            else:
                if opinion.polarity:
                    yield Row(" ".join(opinion.words), int(opinion.polarity > 0), None, begin)
            waiting = []
    if waiting:
        yield Bad(waiting[0][0], "expected three lines: sentence, aspect, polarity")


FORMATS: dict[str, Callable[..., Iterator[Row | Bad]]] = {
    "sst": _by_line(_sst),
    "imdb": _by_line(_imdb),
    "semeval": _semeval,
    "tsv": _by_line(_tsv),
    "jsonl": _by_line(_jsonl),
}
