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
from attnlab.course.source import Import, Source, Use, bound_anywhere, module_file, read, uses

BUILTIN = {Import("attnlab.contract", "InputError"): "ValueError"}  # what needs no definition
RULE = 100  # columns

Key = tuple[str, str]  # module, name
Span = tuple[int, int, int, int]  # first line (from 1), column in bytes, last line, column
Rewrite = tuple[Span, str]


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
    pieces = _Pieces(reference)
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
            *_new_defaults(node, defaults or {}),
            *_new_order(node, order or {}),
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


# --- what belongs together ----------------------------------------------------------------------


@dataclass
class _Pieces:
    """Definitions that a file needs, with the names they get in it."""

    reference: Source
    sources: list[Source] = field(default_factory=list)  # imported ones before their importers
    kept: dict[str, list[ast.stmt]] = field(default_factory=dict)  # by module
    targets: dict[int, list[tuple[Use, Key]]] = field(default_factory=dict)  # by statement
    imports: set[tuple[str, Import]] = field(default_factory=set)  # (name, of what)
    keys: dict[Key, None] = field(default_factory=dict)
    final: dict[Key, str] = field(default_factory=dict)

    def collect(self, source: Source, name: str) -> None:
        """Take in a definition and, before it, all that it uses."""
        if (source.name, name) in self.keys:
            return
        self.keys[source.name, name] = None
        node = source.definitions[name]
        if id(node) in self.targets:
            return
        self.targets[id(node)] = []
        for use in self.used(source, node):
            self._resolve(source, node, use)
        if source not in self.sources:
            self.sources.append(source)
        self.kept.setdefault(source.name, []).append(node)

    def used(self, source: Source, node: ast.stmt) -> list[Use]:
        """Global names in a definition; decorators of paths and branches for tensors are left out."""
        gone = {id(n) for each in dropped(source, node, self.reference) for n in ast.walk(each)}
        return [use for use in uses(node) if id(use.node) not in gone]

    def _resolve(self, source: Source, node: ast.stmt, use: Use) -> None:
        found = self._find(source, use.name)
        if found is None:
            return
        if isinstance(found, tuple):
            self._take(node, Use(use.name, use.node), found)
        elif module_file(found.module) is None:
            self.imports.add((use.name, found))
        elif use.attribute is not None and not found.attribute:  # plan.f
            attribute = self._find(read(found.module), use.attribute.attr)
            if not isinstance(attribute, tuple):
                raise InputError(f"{source.name}: cannot inline {ast.unparse(use.attribute)}")
            self._take(node, use, attribute)
        else:
            raise InputError(f"{source.name}: cannot inline the module {use.name} as a value")

    def _take(self, node: ast.stmt, use: Use, found: tuple[Source, str]) -> None:
        source, name = found
        builtin = BUILTIN.get(Import(source.name, name))
        self.targets[id(node)].append((use, (source.name, name)))
        if builtin:
            self.final[source.name, name] = builtin
        else:
            self.collect(source, name)

    def _find(self, source: Source, name: str) -> tuple[Source, str] | Import | None:
        """(module, name) of the definition behind a global name, or the import of something else;
        None for builtins."""
        if name in source.definitions:
            return source, name
        origin = source.imports.get(name)
        if origin is None or module_file(origin.module) is None:
            return origin
        if not origin.attribute:
            return origin
        submodule = f"{origin.module}.{origin.attribute}"
        inner = read(origin.module)
        if origin.attribute not in inner.definitions and module_file(submodule):
            return Import(submodule)
        return self._find(inner, origin.attribute)

    def name(self) -> None:
        """Choose names: the own one where it is free, else with the module's before it."""
        taken = {alias for alias, _ in self.imports}
        ordered = sorted(self.keys, key=lambda key: key[0] != self.reference.name)
        for key in ordered:
            hidden = {
                local
                for nodes in self.kept.values()
                for node in nodes
                if any(other == key for _, other in self.targets[id(node)])
                for local in bound_anywhere(node)
                if node is not self._node(key)
            }
            module, name = key
            choices = [name, f"{module.rsplit('.', 1)[-1]}_{name}", f"{name}_", f"{name}_given"]
            self.final[key] = next(c for c in choices if c not in taken | hidden)
            taken.add(self.final[key])

    def _node(self, key: Key) -> ast.stmt:
        source = next(s for s in self.sources if s.name == key[0])
        return source.definitions[key[1]]


def dropped(source: Source, node: ast.stmt, reference: Source) -> list[ast.AST]:
    """Parts of a definition that a NumPy file has no use for: the decorator of a path, and
    `if is_tensor(x): …` in shared layers."""
    found: list[ast.AST] = [
        d for d in getattr(node, "decorator_list", ()) if ast.unparse(d) == "EXHIBIT.path"
    ]
    if source is not reference:
        found += [
            n
            for n in ast.walk(node)
            if isinstance(n, ast.If)
            and not n.orelse
            and ast.unparse(n.test).startswith("is_tensor(")
        ]
    return found


# --- writing it down ----------------------------------------------------------------------------


@dataclass
class _Writer:
    pieces: _Pieces
    empty: frozenset[str]
    remarks: dict[str, str]
    extra: dict[int, list[Rewrite]] = field(default_factory=dict)  # rewrites by statement

    def text(self) -> str:
        reference = self.pieces.reference
        blocks = [
            ("imports", text) for text in ("from __future__ import annotations", *self._imports())
        ]
        for source in self.pieces.sources:
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
        return text + "\n"

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
            gone |= set(range(*_lines(each)))
        tail: list[str] = []
        is_reference = source is self.pieces.reference
        if is_reference and isinstance(node, ast.FunctionDef) and node.name in self.empty:
            last = _header_end(source, node)
            tail = [f'    raise NotImplementedError("{node.name}")']
            rewrites = [r for r in rewrites if r[0][2] <= last]
        lines = _rewritten(source.lines, rewrites)
        kept = [lines[i] for i in range(first - 1, last) if i + 1 not in gone]
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
                found.append((_span(use.attribute), name))
            elif use.name != name:
                found.append((_span(use.node), name))
        own = getattr(node, "name", "")
        if own and self.pieces.final[source.name, own] != own:
            line = source.lines[node.lineno - 1].encode()
            column = line.index(own.encode())
            span = (node.lineno, column, node.lineno, column + len(own.encode()))
            found.append((span, self.pieces.final[source.name, own]))
        return found


def _as(name: str, alias: str) -> str:
    return "" if name == alias else f" as {alias}"


def _summary(source: Source) -> str:
    """What a module holds, from its docstring."""
    if source.package:
        return "from the card"
    text = (ast.get_docstring(source.tree) or source.name).split("\n\n")[0].split("\n")[0]
    text = re.sub(r",? for NumPy arrays and torch tensors alike", "", text).split(";")[0]
    text = re.split(r": |\. ", text.strip().rstrip(".:"))[0]
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _span(node: ast.expr) -> Span:
    return node.lineno, node.col_offset, *_end(node)


def _lines(node: Any) -> tuple[int, int]:
    """First line of a node, and the one after its last."""
    return node.lineno, node.end_lineno + 1


def _extent(source: Source, node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, with the comment that stands directly above it."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    while first > 1 and source.lines[first - 2].startswith("#"):
        first -= 1
    return first, _lines(node)[1] - 1


def _header_end(source: Source, node: ast.FunctionDef) -> int:
    """The last line of signature and docstring."""
    start = node.body[0]
    if ast.get_docstring(node) is not None:
        return _end(start)[0]
    last = start.lineno - 1
    while not source.lines[last - 1].strip() or source.lines[last - 1].lstrip().startswith("#"):
        last -= 1
    return last


def _rewritten(lines: Sequence[str], rewrites: Iterable[Rewrite]) -> list[str | None]:
    """The lines with spans replaced; a line that a replaced span swallowed is None."""
    made: list[Any] = list(lines)
    for (top, left, bottom, right), text in sorted(rewrites, reverse=True):
        tail = made[bottom - 1].encode()[right:].decode()
        made[top - 1] = made[top - 1].encode()[:left].decode() + text + tail
        for i in range(top, bottom):
            made[i] = None
    return made


def _new_defaults(node: ast.stmt, defaults: Mapping[str, Any]) -> list[Rewrite]:
    assert isinstance(node, ast.FunctionDef)
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*missing, *arguments.defaults]),
        *zip(arguments.kwonlyargs, arguments.kw_defaults),
    ]
    found: list[Rewrite] = []
    for argument, default in pairs:
        if argument.arg not in defaults:
            continue
        value = repr(defaults[argument.arg]).replace("'", '"')
        if default is not None:
            found.append((_span(default), value))
        else:
            bottom, right = _end(argument)
            found.append(((bottom, right, bottom, right), f" = {value}"))
    return found


def _new_order(node: ast.stmt, order: Mapping[str, str]) -> list[Rewrite]:
    """The annotation of a parameter with its axes in this course's order, and a line about it in
    the docstring."""
    assert isinstance(node, ast.FunctionDef)
    found: list[Rewrite] = []
    arguments = [*node.args.args, *node.args.kwonlyargs]
    for argument in arguments:
        if argument.arg not in order or argument.annotation is None:
            continue
        for constant in ast.walk(argument.annotation):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                axes = {token.lstrip("#"): token for token in constant.value.split()}
                wanted = order[argument.arg].split()
                if sorted(axes) == sorted(wanted):
                    text = " ".join(axes[axis] for axis in wanted)
                    found.append((_span(constant), f'"{text}"'))
    if order and ast.get_docstring(node) is not None:
        bottom, right = _end(node.body[0])
        says = [f"{name} is ({', '.join(axes.split())})" for name, axes in order.items()]
        start = "\n" if node.body[0].lineno == bottom else ""
        text = f"{start}\n    In this course {', '.join(says)}.\n    "
        found.append(((bottom, right - 3, bottom, right - 3), text))
    return found


def _end(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset
