"""Prompts on which a circuit works, and look-alikes on which it cannot.

Five behaviours whose heads the literature has looked for. Each generator takes a
`numpy.random.Generator` first and returns a `CircuitTask`: token ids over a small vocabulary of
words, all prompts of one length.

    task = ioi(np.random.default_rng(0), rows=250)
    task.show(0)            # When Anna and Paul went to the park , Paul gave a ball to
    task.answers[0]         # id of "Anna"
    streams = record(model, np.concatenate([task.positives, task.negatives]))

Sources. retrieval: Wu et al., "Retrieval head mechanistically explains long-context factuality",
2024 (here in its smallest form: one key, one value). induction: Elhage et al., "A mathematical
framework for transformer circuits", 2021. ioi: Wang et al., "Interpretability in the wild", 2022.
greater_than: Hanna et al., "How does GPT-2 compute greater-than?", 2023. docstring: Heimersheim &
Janiak, "A circuit for Python docstrings in a 4-layer attention-only transformer", 2023. Positives
and negatives as in O'Neill & Bui, "Sparse autoencoders enable scalable and reliable circuit
identification in language models", 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy.random import Generator

from attnlab.datasets.synthetic import IGNORED

BEGIN = "<s>"
KEYS = tuple(f"k{i}" for i in range(32))
VALUES = tuple(f"v{i}" for i in range(32))
SYMBOLS = tuple(f"t{i}" for i in range(64))
NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Irene", "Jonas",
    "Karin", "Leo", "Maria", "Noah", "Olga", "Paul", "Rosa", "Simon", "Tilda", "Victor",
)  # fmt: skip
PLACES = ("park", "school", "market", "station", "library", "garden", "office", "harbour")
THINGS = ("ball", "book", "ring", "lamp", "letter", "map", "cake", "key")
NOUNS = (
    "war", "siege", "voyage", "drought", "reign", "trial", "feud", "truce",
    "famine", "strike", "revolt", "project", "study", "dispute", "plague", "campaign",
)  # fmt: skip
DIGITS = tuple("0123456789")
FUNCTIONS = ("load", "save", "draw", "merge", "count", "parse", "send", "build")
PARAMETERS = (
    "files", "page", "names", "size", "first", "last", "host", "port", "user", "table", "row",
    "column", "image", "width", "height", "mode", "path", "index", "value", "label", "depth",
    "rate", "limit", "offset",
)  # fmt: skip
REMARKS = ("optional", "required", "integer", "string", "default", "unused", "positive", "list")

# IOI: a name list of two, then one of them acts. All templates have the same length.
IOI_TEMPLATES = tuple(
    line.split()
    for line in (
        "When {1} and {2} went to the {place} , {s} gave a {thing} to",
        "After {1} and {2} came to the {place} , {s} passed the {thing} to",
        "Then {1} and {2} met in the {place} and {s} sold the {thing} to",
    )
)


class CircuitTask(NamedTuple):
    """Prompts with and without a behaviour; `rows` of each, n tokens long.

    positives  prompts that the behaviour continues
    negatives  look-alikes that have no right continuation (or admit any)
    labels     next token at every place of the positives, IGNORED where it is not determined; the
               last column is the answer (greater_than: one of the allowed, drawn at random)
    allowed    which next tokens are right after each positive
    source     place in the positives of the token that the answer copies, -1 where it copies none
    """

    name: str
    vocabulary: tuple[str, ...]
    positives: Int[np.ndarray, "rows n"]
    negatives: Int[np.ndarray, "rows n"]
    labels: Int[np.ndarray, "rows n"]
    allowed: Bool[np.ndarray, "rows vocabulary"]
    source: Int[np.ndarray, "rows"]

    @property
    def answers(self) -> Int[np.ndarray, "rows"]:
        """The next token after each positive."""
        return self.labels[:, -1]

    def show(self, row: int, *, negative: bool = False) -> str:
        """One prompt as text."""
        ids = (self.negatives if negative else self.positives)[row]
        return " ".join(self.vocabulary[i] for i in ids)


def retrieval(rng: Generator, rows: int, *, pairs: int = 10) -> CircuitTask:
    """k v k v … k: the value that followed the key asked for. Negatives ask for a key not there.

    ValueError unless 1 <= pairs <= 31: the negatives need a key to spare.
    """
    if not 1 <= pairs < len(KEYS):
        raise ValueError(f"pairs must be 1 to {len(KEYS) - 1}, not {pairs}")
    keys = _distinct(rng, rows, len(KEYS), pairs + 1)
    values = len(KEYS) + rng.integers(len(VALUES), size=(rows, pairs))
    context = np.stack([keys[:, :pairs], values], axis=2).reshape(rows, 2 * pairs)
    asked, each = rng.integers(pairs, size=rows), np.arange(rows)
    positives = np.column_stack([context, keys[each, asked]])
    negatives = np.column_stack([context, keys[:, pairs]])
    answers = values[each, asked]
    return _task("retrieval", KEYS + VALUES, positives, negatives, answers, 2 * asked + 1)


def induction(rng: Generator, rows: int, *, n: int = 49) -> CircuitTask:
    """Random tokens, then some of them again in the same order: what came next the first time?

    The prompt begins with BEGIN; the copied part, from 4 to (n-2)/2 tokens, ends the prompt.
    Negatives are random tokens throughout, none of them twice. ValueError unless 11 <= n <= 65.
    """
    if not 11 <= n <= len(SYMBOLS) + 1:
        raise ValueError(f"n must be 11 to {len(SYMBOLS) + 1}, not {n}")
    once = 1 + _distinct(rng, rows, len(SYMBOLS), n - 1)
    negatives = np.column_stack([np.zeros(rows, int), once])
    positives, labels = negatives.copy(), np.full((rows, n), IGNORED)
    source = np.empty(rows, int)
    for row in range(rows):
        copied = int(rng.integers(4, (n - 2) // 2 + 1))
        begin = 1 + int(rng.integers(n - 1 - 2 * copied))
        follows = positives[row, begin : begin + copied + 1]
        positives[row, n - copied :] = follows[:-1]
        labels[row, n - copied :] = follows[1:]
        source[row] = begin + copied
    made = _task("induction", (BEGIN, *SYMBOLS), positives, negatives, labels[:, -1], source)
    return made._replace(labels=labels)


def ioi(rng: Generator, rows: int) -> CircuitTask:
    """Indirect objects: "When A and B went to the park , B gave a ball to" A.

    The first half has the order A B B, the other B A B. Negatives let a third person act.
    """
    fixed = sorted({w for line in IOI_TEMPLATES for w in line if "{" not in w})
    vocabulary = (BEGIN, *NAMES, *PLACES, *THINGS, *fixed)
    identity = {word: i for i, word in enumerate(vocabulary)}
    positives: list[list[int]] = []
    negatives: list[list[int]] = []
    source = np.empty(rows, int)
    for row, (a, b, c) in enumerate(_distinct(rng, rows, len(NAMES), 3)):
        line = IOI_TEMPLATES[rng.integers(len(IOI_TEMPLATES))]
        first = (a, b) if row < rows // 2 else (b, a)
        words = {"{place}": rng.choice(PLACES), "{thing}": rng.choice(THINGS)}
        words |= {"{1}": NAMES[first[0]], "{2}": NAMES[first[1]]}
        source[row] = 1 + line.index("{1}" if first[0] == a else "{2}")
        for prompts, acts in ((positives, b), (negatives, c)):
            full = words | {"{s}": NAMES[acts]}
            prompts.append([0, *(identity[full.get(w, w)] for w in line)])
    positives_, negatives_ = np.array(positives), np.array(negatives)
    answers = positives_[np.arange(rows), source]
    return _task("ioi", vocabulary, positives_, negatives_, answers, source)


def greater_than(rng: Generator, rows: int) -> CircuitTask:
    """ "The war lasted from the year 1 7 3 2 to the year 1 7": the next digit of a later year.

    Years are digit tokens; YY is 02 to 98, and the label the first digit of a year drawn from
    YY+1 … 99. Negatives have YY = 01, after which every digit may come.
    """
    words = ("The", "lasted", "from", "the", "year", "to")
    vocabulary = (BEGIN, *DIGITS, *NOUNS, *words)
    identity = {word: i for i, word in enumerate(vocabulary)}

    def prompt(noun: str, year: int) -> list[int]:
        line = (
            f"{BEGIN} The {noun} lasted from the year 1 7 {year // 10} {year % 10} to the year 1 7"
        )
        return [identity[word] for word in line.split()]

    years, nouns = rng.integers(2, 99, size=rows), rng.choice(NOUNS, rows)
    later = rng.integers(years + 1, 100)
    first = 1 + np.arange(10)  # the digits' ids
    made = _task(
        "greater_than",
        vocabulary,
        np.array([prompt(noun, year) for noun, year in zip(nouns, years)]),
        np.array([prompt(noun, 1) for noun in nouns]),
        first[later // 10],
        np.full(rows, -1),
    )
    allowed = np.zeros_like(made.allowed)
    allowed[:, first] = np.arange(10) >= ((years + 1) // 10)[:, None]  # a year YY+1 … 99 starts so
    return made._replace(allowed=allowed)


def docstring(rng: Generator, rows: int) -> CircuitTask:
    """A def with five parameters and a docstring that goes through three of them in order.

    def load ( self , a , b , c , d , e ) : \"\"\" :param b : required :param c : string :param  d
    Negatives have random names, none of them twice, in the def and in the docstring
    ("random_random").
    """
    fixed = ("def", "(", ")", "self", ",", ":", '"""', ":param")
    vocabulary = (BEGIN, *FUNCTIONS, *PARAMETERS, *REMARKS, *fixed)
    identity = {word: i for i, word in enumerate(vocabulary)}
    positives: list[list[int]] = []
    negatives: list[list[int]] = []
    source = np.empty(rows, int)
    for row in range(rows):
        name, *remarks = rng.choice(FUNCTIONS), *rng.choice(REMARKS, 2)
        drawn = [PARAMETERS[i] for i in rng.permutation(len(PARAMETERS))[:7]]
        declared, begin = drawn[:5], int(rng.integers(3))
        head = f'{BEGIN} def {name} ( self , {" , ".join(declared)} ) : """'
        for prompts, told in ((positives, declared[begin : begin + 2]), (negatives, drawn[5:])):
            body = "".join(f" :param {p} : {remark}" for p, remark in zip(told, remarks))
            prompts.append([identity[word] for word in f"{head}{body} :param".split()])
        source[row] = head.split().index(declared[begin + 2])
    positives_, negatives_ = np.array(positives), np.array(negatives)
    answers = positives_[np.arange(rows), source]
    return _task("docstring", vocabulary, positives_, negatives_, answers, source)


TASKS: dict[str, Callable[..., CircuitTask]] = {
    "retrieval": retrieval,
    "induction": induction,
    "ioi": ioi,
    "greater_than": greater_than,
    "docstring": docstring,
}


def task(name: str, rows: int, seed: int = 0) -> CircuitTask:
    """A task by name, with `rows` positives and negatives. ValueError for an unknown name."""
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {name!r}")
    return TASKS[name](np.random.default_rng(seed), rows)


def _task(
    name: str,
    vocabulary: tuple[str, ...],
    positives: np.ndarray,
    negatives: np.ndarray,
    answers: np.ndarray,
    source: np.ndarray,
) -> CircuitTask:
    """A task whose last label is the one right answer, and whose other labels are IGNORED."""
    labels = np.full(positives.shape, IGNORED)
    labels[:, -1] = answers
    allowed = answers[:, None] == np.arange(len(vocabulary))
    return CircuitTask(name, vocabulary, positives, negatives, labels, allowed, source)


def _distinct(rng: Generator, rows: int, below: int, count: int) -> Int[np.ndarray, "rows count"]:
    """In each row `count` different integers from 0..below-1, in random order."""
    return np.argsort(rng.random((rows, below)), axis=1)[:, :count]
