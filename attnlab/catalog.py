"""The exhibits as plain data: what `list` and `show` print and what their JSON holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnlab.contract import BACKENDS, FILES, Array, Exhibit, Group, InputError, Operation, suggest
from attnlab.paths import lessons_dir


def summary(exhibit: Exhibit) -> dict[str, Any]:
    """One row of `attnlab list --json`."""
    lesson = lessons_dir() / f"{exhibit.name}.py"
    return {
        "name": exhibit.name,
        "title": exhibit.title,
        "family": exhibit.family,
        "paper": exhibit.paper.citation,
        "operations": [op.name for op in exhibit.operations],
        "backends": list(exhibit.backends),
        "lesson": f"lessons/{lesson.name}" if lesson.is_file() else None,
        "exercise": exhibit.exercise
        and {"difficulty": exhibit.exercise.difficulty, "minutes": exhibit.exercise.minutes},
    }


def card(exhibit: Exhibit) -> dict[str, Any]:
    """Everything the card says, operation by operation."""
    return summary(exhibit) | {
        "idea": exhibit.idea,
        "attention_map": exhibit.attention_map,
        "arxiv": exhibit.paper.arxiv,
        "code": exhibit.paper.code,
        "operations": [_operation(op) for op in exhibit.operations],
    }


def _operation(op: Operation) -> dict[str, Any]:
    return {
        "name": op.name,
        "headline": op is op.exhibit.headline,
        "about": op.about,
        "equations": list(op.equations),
        "inputs": [_array(a) for a in op.arguments],
        "options": [
            {
                "name": o.name,
                "what": f"{_type(o.type)}, default {o.default!r}"
                if o.default is not None
                else f"{_type(o.type)} or None",
                "about": o.about,
            }
            for o in op.options
        ],
        "outputs": [_array(a) for a in op.results],
        "backends": [b for b in BACKENDS if b in op.paths],
        "gradient": list(op.gradient),
        "no_gradient": op.no_gradient,
        "cost": op.cost
        and {
            "time": op.cost.time,
            "exponent": op.cost.exponent,
            "grows": op.cost.grows,
            "memory": op.cost.memory,
            "memory_exponent": op.cost.memory_exponent,
        },
    }


def _array(spec: Array | Group) -> dict[str, str]:
    if isinstance(spec, Group):
        return {
            "name": spec.keyword,
            "what": ("weights " if spec.weight else "a list, each with ")
            + ", ".join(a.name for a in spec.arrays),
            "about": "",
        }
    shape = " or ".join(f"({', '.join(s.split())})" for s in spec.shape.split(" | "))
    remarks = [
        spec.dtype if spec.dtype != "float" else "",
        "optional" if spec.optional else "",
        f"when {spec.when}" if spec.when else "",
    ]
    return {
        "name": spec.name,
        "what": ", ".join(filter(None, [shape, *remarks])),
        "about": spec.about,
    }


def _type(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def source(exhibit: Exhibit, backend: str) -> str:
    """The code of one path. Raises InputError for a path the exhibit does not have."""
    if backend not in exhibit.backends:
        raise InputError(
            f"{exhibit.name} has no source {backend!r}{suggest(backend, exhibit.backends)} (it has {', '.join(exhibit.backends)})"
        )
    folder = Path(__file__).parent.joinpath(*exhibit.package.split(".")[1:])
    return (folder / f"{FILES[backend]}.py").read_text(encoding="utf-8")
