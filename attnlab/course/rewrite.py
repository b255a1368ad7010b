"""Changes in a module's text by place: replaced spans, new defaults and annotations in signatures."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Span = tuple[int, int, int, int]  # first line (from 1), column in bytes, last line, column
Rewrite = tuple[Span, str]


def rewritten(lines: Sequence[str], rewrites: Iterable[Rewrite]) -> list[str | None]:
    """The lines with spans replaced; a line that a replaced span swallowed is None."""
    made: list[Any] = list(lines)
    for (top, left, bottom, right), text in sorted(rewrites, reverse=True):
        tail = made[bottom - 1].encode()[right:].decode()
        made[top - 1] = made[top - 1].encode()[:left].decode() + text + tail
        for i in range(top, bottom):
            made[i] = None
    return made


def new_defaults(node: ast.stmt, defaults: Mapping[str, Any]) -> list[Rewrite]:
    """The defaults in a function's signature, where some have new values."""
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
            found.append((span_of(default), value))
        else:
            bottom, right = end_of(argument)
            found.append(((bottom, right, bottom, right), f" = {value}"))
    return found


def new_order(node: ast.stmt, order: Mapping[str, str]) -> list[Rewrite]:
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
                    found.append((span_of(constant), f'"{text}"'))
    if order and ast.get_docstring(node) is not None:
        bottom, right = end_of(node.body[0])
        says = [f"{name} is ({', '.join(axes.split())})" for name, axes in order.items()]
        start = "\n" if node.body[0].lineno == bottom else ""
        text = f"{start}\n    In this course {', '.join(says)}.\n    "
        found.append(((bottom, right - 3, bottom, right - 3), text))
    return found


def names_of(node: ast.stmt) -> list[tuple[str, Span]]:
    """The names that a top-level definition defines, and where they stand."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        column = len("def ") if isinstance(node, ast.FunctionDef) else len("class ")
        end = column + len(node.name.encode())
        return [(node.name, (node.lineno, column, node.lineno, end))]
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    inside = (n for target in targets for n in ast.walk(target))
    return [(n.id, span_of(n)) for n in inside if isinstance(n, ast.Name)]


def span_of(node: ast.expr) -> Span:
    return node.lineno, node.col_offset, *end_of(node)


def lines(node: Any) -> tuple[int, int]:
    """First line of a node, and the one after its last."""
    return node.lineno, node.end_lineno + 1


def end_of(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset
