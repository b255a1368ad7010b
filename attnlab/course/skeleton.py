"""The student's file, derived from an exhibit's reference: one source for solution and exercise.

Signatures, docstrings and imports stay; bodies go. Helper functions stay as they are unless the
card lists them among `Exercise.parts`, when the student writes them too.
"""

from __future__ import annotations

import ast
from pathlib import Path

from attnlab.contract import Exhibit


def reference_source(exhibit: Exhibit) -> str:
    """The text of the exhibit's reference.py."""
    folder = Path(__file__).parents[1].joinpath(*exhibit.package.split(".")[1:])
    return (folder / "reference.py").read_text(encoding="utf-8")


def skeleton(exhibit: Exhibit) -> str:
    """reference.py with the bodies of its operations (and of the exercise's parts) removed.

    The decorator and the relative import of the card are removed too: a submission stands alone.
    Every emptied function raises NotImplementedError with its name.
    """
    tree = ast.parse(reference_source(exhibit))
    empty = {op.name for op in exhibit.operations}
    empty |= {part.name for part in exhibit.exercise.parts} if exhibit.exercise else set()
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.level)
    ]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in empty:
            node.decorator_list = []
            kept = node.body[:1] if ast.get_docstring(node) is not None else []
            todo = ast.parse(f"raise NotImplementedError({node.name!r})").body
            node.body = kept + todo
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def functions(source: str) -> dict[str, ast.FunctionDef]:
    """Top-level functions of a Python text by name. Raises SyntaxError."""
    return {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
