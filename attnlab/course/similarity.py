"""Suspiciously alike submissions: a list for a human to read, never a verdict.

Submissions of an exercise are compared by winnowed fingerprints (`fingerprint`), pair by pair
through an inverted index, and with the paths that attnlab ships. What everybody was given (the
skeleton) counts for nobody, and neither does what a fifth of the class has alike (`COMMON`): with
one formula to write, much is alike by nature. A copy of a shipped path is found all the same.

    share   of one submission's own fingerprints, how many the other has: 100 % of a short file
            that was pasted whole into a longer one, which has less of the first
    blocks  where: runs of equal tokens, longest first, as line ranges on both sides

Why not a library: copydetect, the well-kept one for Python, fingerprints single files and compares
every pair of them; it has no notion of what much of a class has alike nor of work spread over files,
and brings Matplotlib and Jinja along for its own report.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

from attnlab.contract import Exhibit, InputError
from attnlab.course.config import Course
from attnlab.course.fingerprint import LIMIT, Document, Token, document

LEAST = 0.5  # the larger share of a pair that is listed
FEWEST = 5  # shared fingerprints of a pair that is listed; about 35 tokens
COMMON = 0.2  # of the class: what more have alike is nobody's
COMMON_LEAST = 8  # submissions, in a small class
LISTED = 300  # pairs an exercise


class Sent(Protocol):
    """What is needed of a submission (`attnlab.course.submissions.Submission`)."""

    @property
    def student(self) -> str: ...
    @property
    def files(self) -> Mapping[str, bytes]: ...


@dataclass(frozen=True)
class Block:
    """A run of equal tokens: (file, first line, last line) on each side."""

    first: tuple[str, int, int]
    second: tuple[str, int, int]
    tokens: int


@dataclass(frozen=True)
class Pair:
    """Two submissions alike, or (`shipped`) a submission and a path of attnlab."""

    exercise: str
    first: Document
    second: Document
    shipped: bool
    shared: int
    share_first: float
    share_second: float
    blocks: tuple[Block, ...]

    @property
    def share(self) -> float:
        """What ranks it: of a copy of a shipped path only the submission's own share counts."""
        return self.share_first if self.shipped else max(self.share_first, self.share_second)


@dataclass(frozen=True)
class Similar:
    """All pairs, most alike first; `compared` counts the submissions of each exercise."""

    pairs: tuple[Pair, ...]
    compared: Mapping[str, int]


def compare(
    submissions: Sequence[Sent], names: Iterable[str], course: Course, *, least: float = LEAST
) -> Similar:
    """Compare what a class submitted for the exercises `names`.

    least: the share from which a pair is listed, 0 to 1 (InputError otherwise).
    """
    if not 0 < least <= 1:
        raise InputError(f"least must be above 0 and at most 1, but is {least}")
    pairs: list[Pair] = []
    compared = {}
    for name in names:
        documents = [
            document(s.student, files) for s in submissions if (files := reached(s.files, name))
        ]
        compared[name] = len(documents)
        given, shipped = _ours(name, course)
        ours = given.union(*(path.hashes for path in shipped))
        pairs += among(name, documents, ours, least)
        pairs += copied(name, documents, shipped, given, least)
    pairs.sort(key=lambda p: (-p.share, -p.shared, p.exercise, p.first.owner, p.second.owner))
    return Similar(tuple(pairs), compared)


def among(
    name: str,
    documents: Sequence[Document],
    base: Collection[int] = frozenset(),
    least: float = LEAST,
) -> list[Pair]:
    """Pairs of submissions of one exercise, apart from the fingerprints in `base`: what was given,
    and the shipped paths, which make whoever copied them alike."""
    spread = Counter(h for d in documents for h in d.marks)
    limit = max(COMMON_LEAST, COMMON * len(documents))
    owners: dict[int, list[int]] = defaultdict(list)
    own = [0] * len(documents)
    for i, d in enumerate(documents):
        for h in d.marks:
            if h not in base and spread[h] <= limit:
                owners[h].append(i)
                own[i] += 1
    shared: Counter[tuple[int, int]] = Counter()
    for who in owners.values():
        shared.update(combinations(who, 2))
    found = []
    for (i, j), count in shared.items():
        shares = count / own[i], count / own[j]
        if count >= FEWEST and max(shares) >= least:
            found.append((max(shares), count, i, j, shares))
    found.sort(key=lambda f: (-f[0], -f[1], f[2], f[3]))
    return [
        Pair(name, a, b, False, count, *shares, matches(a, b, base))
        for _, count, i, j, shares in found[:LISTED]
        for a, b in [(documents[i], documents[j])]
    ]


def copied(
    name: str,
    documents: Sequence[Document],
    shipped: Sequence[Document],
    base: Collection[int] = frozenset(),
    least: float = LEAST,
) -> list[Pair]:
    """Submissions of which much stands in a shipped path, apart from what was given (`base`); the
    nearest path of each."""
    paths = [(path, set(path.hashes), [h for h in path.marks if h not in base]) for path in shipped]
    pairs = []
    for d in documents:
        own = [h for h in d.marks if h not in base]
        everywhere = set(d.hashes)
        near = []
        for path, hashes, marks in paths:
            count = sum(h in hashes for h in own)
            if count >= FEWEST and count >= least * len(own):
                back = sum(h in everywhere for h in marks) / max(1, len(marks))
                near.append((count, back, path))
        if near:
            count, back, path = max(near, key=lambda n: (n[0], n[1]))
            blocks = matches(d, path, base)
            pairs.append(Pair(name, d, path, True, count, count / len(own), back, blocks))
    return pairs


def matches(a: Document, b: Document, base: Collection[int], most: int = 12) -> tuple[Block, ...]:
    """Runs of equal tokens around shared fingerprints, longest first; of runs that lie over each
    other on the first side only the longest."""
    spans: set[tuple[int, int, int]] = set()  # (first token of a, of b, length)
    covered: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by diagonal
    for h in (a.marks.keys() & b.places.keys()).difference(base):
        for j in b.places[h][:4]:
            for i in a.marks[h][:4]:
                if not any(start <= i < stop for start, stop in covered[j - i]):
                    start, stop = _extended(a, b, i, j)
                    covered[j - i].append((start, stop))
                    spans.add((start, start + j - i, stop - start))
    taken = [False] * len(a.tokens)
    blocks: list[Block] = []
    for i, j, length in sorted(spans, key=lambda s: (-s[2], s)):
        if sum(taken[i : i + length]) * 2 < length and len(blocks) < most:
            taken[i : i + length] = [True] * length
            blocks.append(Block(_lines(a, i, length), _lines(b, j, length), length))
    return tuple(blocks)


def _extended(a: Document, b: Document, i: int, j: int) -> tuple[int, int]:
    """The run of equal tokens through a's token i and b's token j: a's first, a's last plus one."""
    start, shift = i, j - i
    x, y = a.tokens, b.tokens
    while start > 0 and start + shift > 0 and _same(x[start - 1], y[start - 1 + shift], x[i], y[j]):
        start -= 1
    stop = i
    while stop < len(x) and stop + shift < len(y) and _same(x[stop], y[stop + shift], x[i], y[j]):
        stop += 1
    return start, stop


def _same(one: Token, other: Token, here: Token, there: Token) -> bool:
    """Equal symbols, each in the same file as the run's seed."""
    return (one.symbol, one.file, other.file) == (other.symbol, here.file, there.file)


def _lines(d: Document, start: int, length: int) -> tuple[str, int, int]:
    tokens = d.tokens[start : start + length]
    return d.files[tokens[0].file][0], tokens[0].line, tokens[-1].line


def reached(files: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    """NAME.py and those files of the submission whose names stand in its imports, and theirs."""
    main = f"{name}.py"
    if main not in files:
        return {}
    stems = {f: (f.removesuffix("/__init__.py").removesuffix(".py").split("/")[-1]) for f in files}
    found, waiting, size = {main: files[main]}, [main], 0
    while waiting and size < 4 * LIMIT:
        text = files[waiting.pop()].decode("utf-8", "replace")
        size += len(text)
        words = _imported(text)
        for file, stem in stems.items():
            if stem in words and file not in found and file.endswith(".py"):
                found[file] = files[file]
                waiting.append(file)
    return found


def _imported(text: str) -> set[str]:
    """Words of import statements. No pattern over whole lines: on a line of a million characters
    it would take hours, and no parser: deep nesting can end a process."""
    words: set[str] = set()
    done = 0
    for found in re.finditer(r"\bimport\b", text):
        if found.start() < done:
            continue
        start = text.rfind("\n", max(0, found.start() - 300), found.start()) + 1
        stop = text.find("\n", found.end(), found.end() + 3000)
        if "(" in text[found.end() : stop if stop >= 0 else found.end() + 3000]:
            stop = text.find(")", found.end(), found.end() + 3000)
        done = stop if stop >= 0 else found.end() + 3000
        words.update(re.findall(r"\w+", text[max(start, found.start() - 300) : done]))
    return words


def _ours(name: str, course: Course) -> tuple[frozenset[int], list[Document]]:
    """The fingerprints of the skeleton that students start from, and the shipped paths."""
    from attnlab.course.skeleton import skeleton
    from attnlab.registry import find

    exhibit = find(name)
    given = document("skeleton", {f"{name}.py": skeleton(exhibit, course.assignment(name))})
    return frozenset(given.hashes), shipped_paths(exhibit)


def shipped_paths(exhibit: Exhibit) -> list[Document]:
    """The exhibit's paths as one might copy them: the reference self-contained, the others with all
    the modules that they use."""
    from attnlab.course.answer import answer
    from attnlab.course.model import TRACKS

    found = []
    for track in TRACKS:
        try:
            files = answer(exhibit, track)
        except InputError:  # no such path
            continue
        found.append(document(f"attnlab's {track} path", files))
    return found
