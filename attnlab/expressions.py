"""Arithmetic and conditions written as text: dimensions, `when=` clauses and the losses of test vectors.

Text is parsed to a syntax tree and only the node types below are evaluated, so a test-vector
file that came by mail can do no more than arithmetic on the names it is given.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "log2": math.log2,
    "len": len,
}


@lru_cache(maxsize=4096)
def _parse(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


@lru_cache(maxsize=4096)
def names_in(text: str) -> frozenset[str]:
    """The free names of an expression, functions left out."""
    tree = _parse(text)
    called = {
        n.func.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    return frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)) - called


def evaluate(
    text: str,
    names: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]] = FUNCTIONS,
) -> Any:
    """Value of `text` over `names`.

    Raises
    ------
    NameError    a name or function is not among those given
    ValueError   the text holds anything but arithmetic, comparison, conditions, calls and x[0]
    SyntaxError  the text is no expression
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                if node.id not in names:
                    raise NameError(node.id)
                return names[node.id]
            case ast.BinOp() if type(node.op) in _BINARY:
                return _BINARY[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp(op=ast.USub()):
                return -value(node.operand)
            case ast.UnaryOp(op=ast.Not()):
                return not value(node.operand)
            case ast.BoolOp(op=ast.And()):
                return all(value(v) for v in node.values)
            case ast.BoolOp():
                return any(value(v) for v in node.values)
            case ast.Compare():
                left = value(node.left)
                for op, right_node in zip(node.ops, node.comparators):
                    right = value(right_node)
                    if not _COMPARE[type(op)](left, right):
                        return False
                    left = right
                return True
            case ast.Subscript(slice=ast.Constant(value=int() as index)):
                return value(node.value)[index]
            case ast.IfExp():
                return value(node.body if value(node.test) else node.orelse)
            case ast.Tuple() | ast.List():
                return tuple(value(e) for e in node.elts)
            case ast.Call(func=ast.Name(id=name)) if not node.keywords:
                if name not in functions:
                    raise NameError(name)
                return functions[name](*(value(a) for a in node.args))
        raise ValueError(f"{type(node).__name__} is not allowed in {text!r}")

    return value(_parse(text))
