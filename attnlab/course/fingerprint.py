"""Fingerprints of Python source that renaming, reformatting and commenting do not change.

Winnowing (Schleimer, Wilkerson and Aiken 2003, "Winnowing: Local Algorithms for Document
Fingerprinting", SIGMOD): every run of K tokens is hashed by a rolling hash, and of every WINDOW
neighbouring hashes the least is kept. Any run of K + WINDOW - 1 tokens that two texts share is
found; none shorter than K ever is.

Tokens: a variable's name is one symbol whatever it is, a number another, a string a third. What
follows a dot stays (np.exp and np.max differ, and belong to the library), and so do keywords.
Comments, docstrings, imports, line breaks and indents are dropped.
"""

from __future__ import annotations

import hashlib
import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

K = 14  # tokens of the shortest run that counts: about two short statements
WINDOW = 8
LIMIT = 2**18  # characters of one file that are read
_BASE, _PRIME = 1_000_003, 2**61 - 1

_DROPPED = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip
# Without a parser: strings (also unfinished ones), comments, numbers, names, anything else.
_ROUGH = re.compile(
    r"""(?P<string>[rbfuRBFU]{0,2}(?:\"{3}.*?(?:\"{3}|\Z)|'{3}.*?(?:'{3}|\Z)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))"""
    r"|(?P<comment>\#[^\n]*)|(?P<number>\.?\d(?:[eE][+-]?\d|[\w.])*)|(?P<name>[^\W\d]\w*)|(?P<line>\n)|(?P<space>\s+)"
    r"|(?P<op>\.\.\.|\*\*=|//=|>>=|<<=|->|:=|==|!=|<=|>=|\*\*|//|<<|>>|[+\-*/%&|^@]=|.)",
    re.S,
)


@dataclass(frozen=True)
class Token:
    """A symbol and where it stands: file (an index) and line, from 1."""

    symbol: str
    line: int
    file: int = 0


@dataclass(frozen=True)
class Document:
    """One submission's source for one exercise: files in a fixed order, and their tokens."""

    owner: str
    files: tuple[tuple[str, str], ...]  # (name, text)
    tokens: tuple[Token, ...]
    hashes: tuple[int, ...]  # of every run of K tokens, by its first
    marks: Mapping[int, tuple[int, ...]]  # winnowed: hash -> first tokens

    @cached_property
    def places(self) -> Mapping[int, list[int]]:
        """Hash -> first tokens, of every run."""
        found: dict[int, list[int]] = {}
        for place, value in enumerate(self.hashes):
            found.setdefault(value, []).append(place)
        return found


def document(owner: str, files: Mapping[str, bytes | str]) -> Document:
    """Tokens and fingerprints of some files; undecodable bytes and syntax errors are no obstacle."""
    texts = [(name, _text(content)) for name, content in files.items()]
    tokens = [t for i, (_, text) in enumerate(texts) for t in tokenise(text, i)]
    hashes = _hashes([t.symbol for t in tokens])
    marks: dict[int, list[int]] = {}
    for place in winnow(hashes):
        marks.setdefault(hashes[place], []).append(place)
    kept = {h: tuple(p) for h, p in marks.items()}
    return Document(owner, tuple(texts), tuple(tokens), tuple(hashes), kept)


def _text(content: bytes | str) -> str:
    if isinstance(content, bytes):
        content = content[: 4 * LIMIT].decode("utf-8-sig", "replace")
    return content[:LIMIT].replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def tokenise(text: str, file: int = 0) -> list[Token]:
    """The tokens that count, by Python's tokenizer where it can read the text."""
    try:
        found = list(_exact(text))
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError):
        found = list(_rough(text))
    return [Token(symbol, line, file) for symbol, line in _statements(found)]


def _exact(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, line): name, number, string, op, and "end" for the end of a statement."""
    inside = 0  # f-strings come in pieces from Python 3.12 on: one symbol all the same
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        name = tokenize.tok_name[token.type]
        if name in ("FSTRING_START", "TSTRING_START"):
            inside += 1
            if inside == 1:
                yield "string", "", line
        elif name in ("FSTRING_END", "TSTRING_END"):
            inside -= 1
        elif inside:
            continue
        elif token.type == tokenize.NEWLINE:
            yield "end", "", line
        elif token.type == tokenize.ERRORTOKEN and not token.string.isspace():
            raise SyntaxError(token.string)
        elif token.type not in _DROPPED and not token.string.isspace():
            kind = {"NAME": "name", "NUMBER": "number", "STRING": "string"}.get(name, "op")
            yield kind, token.string, line


def _rough(text: str) -> Iterator[tuple[str, str, int]]:
    line, depth = 1, 0
    for found in _ROUGH.finditer(text):
        kind, token = str(found.lastgroup), found[0]
        if kind == "line":
            if depth <= 0:
                yield "end", "", line
        elif kind not in ("space", "comment"):
            yield kind, token, line
        if kind == "op":
            depth = max(0, depth + (token in "([{") - (token in ")]}"))
        line += token.count("\n")


def _statements(tokens: Sequence[tuple[str, str, int]]) -> Iterator[tuple[str, int]]:
    """Symbols and lines, without docstrings and imports."""
    start = 0
    for stop in [i for i, t in enumerate(tokens) if t[0] == "end"] + [len(tokens)]:
        statement = tokens[start:stop]
        start = stop + 1
        if not statement or all(kind == "string" for kind, _, _ in statement):
            continue
        if statement[0][1] in ("import", "from") and statement[0][0] == "name":
            continue
        for i, (kind, text, line) in enumerate(statement):
            if text == ";":
                continue
            attribute = i > 0 and statement[i - 1][1] == "."
            yield _symbol(kind, text, attribute), line


def _symbol(kind: str, text: str, attribute: bool) -> str:
    if kind == "name":
        return text if attribute or keyword.iskeyword(text) else "name"
    return {"number": "0", "string": '""'}.get(kind, text)


@cache
def _code(symbol: str) -> int:
    return int.from_bytes(hashlib.blake2b(symbol.encode(), digest_size=7).digest(), "big") + 1


def _hashes(symbols: Sequence[str]) -> list[int]:
    """The rolling hash of every run of K symbols."""
    codes = [_code(s) for s in symbols]
    top = pow(_BASE, K, _PRIME)
    value, found = 0, []
    for i, code in enumerate(codes):
        value = (value * _BASE + code) % _PRIME
        if i >= K:
            value = (value - codes[i - K] * top) % _PRIME
        if i >= K - 1:
            # scrambled, so that "the least" is no particular kind of code
            found.append(value * 0x9E3779B97F4A7C15 % 2**64)
    return found


def winnow(hashes: Sequence[int]) -> list[int]:
    """Places of the least hash of every WINDOW neighbours; the last one where several are least."""
    kept: list[int] = []
    for start in range(max(1, len(hashes) - WINDOW + 1) if hashes else 0):
        if kept and kept[-1] >= start:
            new = start + WINDOW - 1
            if new >= len(hashes) or hashes[new] > hashes[kept[-1]]:
                continue
            kept.append(new)
            continue
        window = range(start, min(len(hashes), start + WINDOW))
        kept.append(min(window, key=lambda i: (hashes[i], -i)))
    return kept
