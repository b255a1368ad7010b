"""A module of attnlab as text: what it defines and imports, and what a definition needs of it.

Standalone files are put together from such pieces (`standalone`), and the closure of a path's
modules is found here (`answer`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from attnlab.contract import InputError

ROOT = Path(__file__).resolve().parents[1]

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Import:
    """`import module` (attribute "") or `from module import attribute`, in absolute terms."""

    module: str
    attribute: str = ""


@dataclass(frozen=True)
class Use:
    """A global name that a definition reads; `attribute` is the `.f` that follows it directly."""

    name: str
    node: ast.Name
    attribute: ast.Attribute | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """The text of one module. `name` is dotted; a package's text is its __init__.py."""

    name: str
    text: str
    package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def definitions(self) -> dict[str, ast.stmt]:
        """Functions, classes and constants of the top level; one statement may define several."""
        found: dict[str, ast.stmt] = {}
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    found |= {n.id: node for n in ast.walk(target) if isinstance(n, ast.Name)}
        return found

    @cached_property
    def imports(self) -> dict[str, Import]:
        """Name -> what it stands for, of the imports of the top level."""
        found: dict[str, Import] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Import):
                found |= {a.asname or a.name: Import(a.name) for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
                origin = self.absolute(node)
                found |= {a.asname or a.name: Import(origin, a.name) for a in node.names}
        return found

    def absolute(self, node: ast.ImportFrom) -> str:
        """The dotted name of the module that a from-import names, relative ones resolved."""
        if not node.level:
            return node.module or ""
        up = node.level - 1 if self.package else node.level
        base = self.name.split(".")[: len(self.name.split(".")) - up]
        return ".".join([*base, *([node.module] if node.module else [])])


def module_file(name: str) -> Path | None:
    """The file of a dotted module of attnlab; None where there is none."""
    path = ROOT.joinpath(*name.split(".")[1:])
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if name.split(".")[0] == "attnlab" and file.is_file():
            return file
    return None


@cache
def read(name: str) -> Source:
    """A module of attnlab by its dotted name. Raises InputError where there is none."""
    file = module_file(name)
    if file is None:
        raise InputError(f"module {name}: no such module of attnlab")
    return Source(name, file.read_text(encoding="utf-8"), file.name == "__init__.py")


def uses(node: ast.AST) -> list[Use]:
    """Global names that a top-level definition reads, in its annotations too; locals are left out."""
    return list(_uses(node, frozenset()))


def _uses(node: ast.AST, bound: frozenset[str]) -> Iterator[Use]:
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in bound:
            yield Use(node.id, node)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id not in bound:
            yield Use(node.value.id, node.value, node)
    elif isinstance(node, _SCOPES):
        arguments = node.args
        outer: list[ast.AST | None] = [*arguments.defaults, *arguments.kw_defaults]
        if not isinstance(node, ast.Lambda):
            outer += [*node.decorator_list, node.returns, *(a.annotation for a in _all(arguments))]
        for each in outer:
            if each is not None:
                yield from _uses(each, bound)
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        inner = bound | bound_in(node)
        for statement in body:
            yield from _uses(statement, inner)
    elif isinstance(node, _COMPREHENSIONS):
        targets = (n for g in node.generators for n in ast.walk(g.target))
        inner = bound | {n.id for n in targets if isinstance(n, ast.Name)}
        yield from _uses(node.generators[0].iter, bound)
        for child in ast.iter_child_nodes(node):
            if child is node.generators[0]:
                for condition in node.generators[0].ifs:
                    yield from _uses(condition, inner)
            else:
                yield from _uses(child, inner)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _uses(child, bound)


def bound_in(scope: ast.AST) -> frozenset[str]:
    """Names that a function's or lambda's own scope binds: parameters, targets, inner functions."""
    names: set[str] = set()
    if isinstance(scope, _SCOPES):
        names |= {a.arg for a in _all(scope.args)}
    body = getattr(scope, "body", [])
    waiting: list[ast.AST] = list(body) if isinstance(body, list) else [body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        if not isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
            waiting += ast.iter_child_nodes(node)
    return frozenset(names)


def bound_anywhere(node: ast.AST) -> set[str]:
    """Names that any scope inside a definition binds."""
    names = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    stored = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
    scopes = (n for n in ast.walk(node) if isinstance(n, _SCOPES))
    return stored.union(*(bound_in(scope) for scope in scopes))


def _all(arguments: ast.arguments) -> list[ast.arg]:
    rest = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest]
