"""One self-contained NumPy file out of an exhibit's reference.py.

The functions asked for come with everything that they use: other functions of reference.py as they
stand there, comments and all, and before them, under a heading "Given", what reference.py imports
from attnlab (shared layers, sibling modules, the card). The file runs where attnlab is not.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from attnlab.contract import Exhibit, InputError, Mistake, suggest
from attnlab.course.inline import BUILTIN, Pieces, dropped
from attnlab.course.rewrite import (
    Rewrite,
    end_of,
    lines,
    names_of,
    new_defaults,
    new_order,
    rewritten,
    span_of,
)
from attnlab.course.source import Source, read

RULE = 100  # columns


def standalone(
    exhibit: Exhibit,
    functions: Iterable[str],
    *,
    empty: Iterable[str] = (),
    edits: Sequence[Mistake] = (),
    defaults: Mapping[str, Any] | None = None,
    order: Mapping[str, str] | None = None,
    remarks: Mapping[str, str] | None = None,
    intro: str = "",
) -> str:
    """The functions of reference.py, and what they use, as one file that needs NumPy alone.

    Parameters
    ----------
    functions   names of reference.py's functions; what they use comes along
    empty       of all these, the ones that only raise NotImplementedError
    edits       mistakes to plant first: each one's `old` becomes `new` in reference.py's text
    defaults    option -> its default in the headline's signature here
    order       array -> its axes in the headline here (annotation and docstring say so)
    remarks     function -> a comment above it
    intro       the file's docstring; title, paper and equations where it is empty

    Raises InputError for functions that reference.py lacks and for edits that do not fit.
    """
    reference = Source(f"{exhibit.package}.reference", edited(exhibit, edits))
    pieces = Pieces(reference)
    for name in functions:
        if not isinstance(reference.definitions.get(name), ast.FunctionDef):
            near = suggest(name, reference.definitions)
            raise InputError(f"functions: reference.py of {exhibit.name} defines no {name!r}{near}")
        pieces.collect(reference, name)
    pieces.name()
    headline = exhibit.headline.name
    writer = _Writer(pieces, frozenset(empty), dict(remarks or {}))
    if headline in reference.definitions:
        node = reference.definitions[headline]
        writer.extra[id(node)] = [
            *new_defaults(node, defaults or {}),
            *new_order(node, order or {}),
        ]
    return f"{_docstring(intro or description(exhibit))}\n\n{writer.text()}"


def edited(exhibit: Exhibit, edits: Sequence[Mistake] = ()) -> str:
    """The text of reference.py with mistakes planted.

    Raises InputError where a mistake's `old` does not occur exactly once.
    """
    text = read(f"{exhibit.package}.reference").text
    for mistake in edits:
        count = text.count(mistake.old)
        if count != 1:
            raise InputError(
                f"mistake {mistake.name!r}: its old text must occur once in reference.py of "
                f"{exhibit.name}, but occurs {count} times"
            )
        text = text.replace(mistake.old, mistake.new)
    return text


def description(exhibit: Exhibit) -> str:
    """Title, paper and the headline's equations."""
    op = exhibit.headline
    lines = [
        f"{exhibit.title}.",
        "",
        *wrapped(f"Paper: {exhibit.paper.citation}."),
    ]
    if op.equations:
        lines += [
            "",
            *(f"    {_narrow(line)}" for text in op.equations for line in text.splitlines()),
        ]
    return "\n".join(lines)


def _narrow(equation: str) -> str:
    """A line whose number stands far to the right, with the number beside it."""
    return equation if len(equation) < RULE - 4 else re.sub(r" {3,}\(", "  (", equation)


def wrapped(text: str, indent: str = "") -> list[str]:
    """Lines of at most the file's width; the next ones indented."""
    return textwrap.wrap(
        text, RULE - 3, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _docstring(text: str) -> str:
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    text = text.replace('"""', "'''")
    end = "\n" if "\n" in text or text.endswith('"') else ""
    return f'{"r" if chr(92) in text else ""}"""{text}{end}"""'


@dataclass
class _Writer:
    pieces: Pieces
    empty: frozenset[str]
    remarks: dict[str, str]
    extra: dict[int, list[Rewrite]] = field(default_factory=dict)  # rewrites by statement

    def text(self) -> str:
        reference = self.pieces.reference
        blocks = [
            ("imports", text) for text in ("from __future__ import annotations", *self._imports())
        ]
        for source in sorted(self.pieces.sources, key=lambda s: s is reference):
            if len(self.pieces.sources) > 1:
                own = "Asked" if self.empty else "The mechanism"
                title = own if source is reference else f"Given: {_summary(source)}"
                blocks.append(("heading", f"# --- {title} ".ljust(RULE, "-")))
            for node in sorted(self.pieces.kept[source.name], key=lambda n: n.lineno):
                apart = isinstance(node, ast.FunctionDef | ast.ClassDef)
                kind = "block" if apart else "constant"
                blocks.append((kind, self._definition(source, node)))
        text = blocks[0][1]
        for (before, _), (kind, part) in pairwise(blocks):
            near = "\n" if before == kind == "constant" else "\n\n"
            text += ("\n\n\n" if "block" in (before, kind) else near) + part
        for old, new in BUILTIN.items():
            text = re.sub(rf"\b{old.attribute}\b", new, text)  # in docstrings
        return re.sub(r"  # type: ignore\b.*$", "", text, flags=re.M) + "\n"

    def _imports(self) -> list[str]:
        plain: set[str] = set()
        members: dict[str, set[str]] = {}
        for alias, what in self.pieces.imports:
            if not what.attribute:
                plain.add(f"import {what.module}" + _as(what.module, alias))
            else:
                name = what.attribute + _as(what.attribute, alias)
                members.setdefault(what.module, set()).add(name)
        rows = [(line.split()[1].split(".")[0], line) for line in sorted(plain)]
        for module, names in sorted(members.items()):
            listed = sorted(names, key=lambda n: (not n.isupper(), n[0].islower(), n.lower()))
            rows.append((module.split(".")[0], f"from {module} import {', '.join(listed)}"))
        standard = [line for top, line in rows if top in sys.stdlib_module_names]
        others = [line for top, line in rows if top not in sys.stdlib_module_names]
        return ["\n".join(block) for block in (standard, others) if block]

    def _definition(self, source: Source, node: ast.stmt) -> str:
        first, last = _extent(source, node)
        rewrites = [*self._renames(source, node), *self.extra.get(id(node), [])]
        gone: set[int] = set()
        for each in dropped(source, node, self.pieces.reference):
            gone |= set(range(*lines(each)))
        tail: list[str] = []
        is_reference = source is self.pieces.reference
        if is_reference and isinstance(node, ast.FunctionDef) and node.name in self.empty:
            last = _header_end(source, node)
            tail = [f'    raise NotImplementedError("{node.name}")']
            rewrites = [r for r in rewrites if r[0][2] <= last]
        changed = rewritten(source.lines, rewrites)
        kept = [changed[i] for i in range(first - 1, last) if i + 1 not in gone]
        text = "\n".join(line for line in kept if line is not None)
        text = re.sub(r"[ \t]+$", "", text, flags=re.M)
        name = getattr(node, "name", "")
        if is_reference and name in self.remarks:
            text = f"# {self.remarks[name]}\n{text}"
        return "\n".join([text, *tail])

    def _renames(self, source: Source, node: ast.stmt) -> list[Rewrite]:
        found: list[Rewrite] = []
        for use, key in self.pieces.targets[id(node)]:
            name = self.pieces.final[key]
            if use.attribute is not None:
                found.append((span_of(use.attribute), name))
            elif use.name != name:
                found.append((span_of(use.node), name))
        for own, span in names_of(node):
            name = self.pieces.final.get((source.name, own), own)
            found += [(span, name)] if name != own else []
        return found


def _as(name: str, alias: str) -> str:
    return "" if name == alias else f" as {alias}"


def _summary(source: Source) -> str:
    """What a module holds, from its docstring."""
    if source.package:
        return "from the card"
    text = (ast.get_docstring(source.tree) or source.name).split("\n\n")[0].split("\n")[0]
    text = re.sub(r",? for NumPy arrays and torch tensors alike", "", text).split(";")[0]
    text = re.sub(r" \([^)]*\)", "", text)  # of a paper
    text = re.split(r": |\. ", text.strip().rstrip(".:"))[0]
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _extent(source: Source, node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, with the comment that stands directly above it."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    while first > 1 and source.lines[first - 2].startswith("#"):
        first -= 1
    return first, lines(node)[1] - 1


def _header_end(source: Source, node: ast.FunctionDef) -> int:
    """The last line of signature and docstring."""
    start = node.body[0]
    if ast.get_docstring(node) is not None:
        return end_of(start)[0]
    last = start.lineno - 1
    while not source.lines[last - 1].strip() or source.lines[last - 1].lstrip().startswith("#"):
        last -= 1
    return last
