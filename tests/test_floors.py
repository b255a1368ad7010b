"""The house's floors: nothing imports upward, no mechanism imports another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import attnlab

ROOT = Path(attnlab.__file__).parent
FLOORS = (
    {"expressions", "hardware", "draw", "paths", "contract", "checks", "flat", "module"},
    {"kernels"},
    {"layers"},
    {"mechanisms"},
    {"registry"},
    {"vectors", "datasets", "models", "catalog"},
    {"bench", "explain", "lesson", "course"},
    {"dev", "doctor"},
    {"cli", "__main__"},
)
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}


def imports(file: Path) -> Iterator[list[str]]:
    """Dotted parts of every absolute import of attnlab, lazy ones included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = (
                [node.module]
                if node.module != "attnlab"
                else [f"attnlab.{a.name}" for a in node.names]
            )
        yield from (name.split(".") for name in names if name.startswith("attnlab."))


def test_every_module_has_a_floor() -> None:
    modules = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert modules - {"__init__"} <= FLOOR.keys()


def test_nothing_imports_upward() -> None:
    for file in ROOT.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[0] == "__init__":
            continue
        for _, target, *rest in imports(file):
            where = f"{file.relative_to(ROOT)} imports {target}"
            assert FLOOR.get(target, 0) <= FLOOR[parts[0]], where
            if parts[0] == target == "mechanisms":
                assert tuple(rest[:2]) == parts[1:3], where
