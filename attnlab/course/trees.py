"""Trees of arrays with flat names, and axes with names: what arguments and answers are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(flat name, leaf) of a tree: mappings by key, lists and tuples by place, "result" for a bare
    value; a list of numbers is one array."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from leaves(member, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple | list) and not (value and all(_number(v) for v in value)):
        if not value:
            yield name or "result", np.zeros(0)
        for i, member in enumerate(value):
            yield from leaves(member, f"{name or 'result'}[{i}]")
    else:
        yield name or "result", value if value is None else np.asarray(value)


def tokens(shape: str, array: Any) -> list[str]:
    """Names of the axes, of the alternative that fits by rank; none where no one fits."""
    for choice in shape.split(" | "):
        if len(choice.split()) == np.ndim(array):
            return choice.split()
    return []


def permutation(shape: str, order: str) -> list[int]:
    """Axes for `transpose` that bring `shape` into `order`; of equal names the first comes first."""
    names: list[str | None] = list(shape.split())
    axes = []
    for token in order.split():
        axes.append(names.index(token))
        names[axes[-1]] = None
    return axes


def arrays(value: Any) -> Iterator[np.ndarray]:
    """Every array in arguments or outputs."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from arrays(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from arrays(member)


def copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {k: copied(v) for k, v in value.items()}
    return [copied(v) for v in value] if isinstance(value, list) else value


def _number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return not value.ndim and value.dtype.kind in "fiub"
    return isinstance(value, int | float | np.generic) and not isinstance(value, str)
