"""Flat names: how nested keywords are written in test vectors and npz files.

A family `Array("x{i}")` is the keyword `x`, a list, and the flat names x0, x1, …; a
`Group("query.", …)` is the keyword `query`, a mapping, and the flat names query.weight,
query.bias; a `Group("blocks.{i}.", …)` is a list of mappings. This pair of functions is the only
place where the two forms meet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from attnlab.contract import Array, Group, InputError

Spec = Array | Group


def flatten(specs: Iterable[Spec], values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat name -> leaf for the keywords in `values`; what is None is left out."""
    flat: dict[str, Any] = {}
    for spec in specs:
        value = values.get(spec.keyword)
        if value is None:
            continue
        for index, member in _members(spec, value):
            name = _fill(spec.name, index)
            if isinstance(spec, Group):
                flat |= {name + inner: leaf for inner, leaf in flatten(spec.arrays, member).items()}
            else:
                flat[name] = member
    return flat


def numpy_outputs(specs: Iterable[Spec], result: Any) -> dict[str, np.ndarray]:
    """Flat name -> NumPy array for an operation's named tuple, tensors brought home."""
    flat = flatten(specs, result._asdict())
    return {
        k: v.detach().cpu().numpy() if hasattr(v, "detach") else np.asarray(v)
        for k, v in flat.items()
    }


def unflatten(specs: Iterable[Spec], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords from flat names. Raises InputError for a name that no spec declares."""
    found: dict[str, dict[str | None, Any]] = {}
    specs = list(specs)
    for name, leaf in flat.items():
        spec, index, inner = _match(specs, name)
        members = found.setdefault(spec.keyword, {})
        if isinstance(spec, Group):
            members.setdefault(index, {})[inner] = leaf
        else:
            members[index] = leaf
    values: dict[str, Any] = {}
    for spec in specs:
        if spec.keyword not in found:
            continue
        members = found[spec.keyword]
        if isinstance(spec, Group):
            members = {i: unflatten(spec.arrays, m) for i, m in members.items()}
        values[spec.keyword] = _collect(spec, members)
    return values


def declared(specs: Iterable[Spec], name: str) -> Array:
    """The declaration behind a flat name. Raises InputError where there is none."""
    spec, _, inner = _match(list(specs), name)
    return declared(spec.arrays, inner) if isinstance(spec, Group) else spec


def _members(spec: Spec, value: Any) -> Iterable[tuple[str | None, Any]]:
    if not spec.family:
        return [(None, value)]
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    return [(str(i), v) for i, v in pairs]


def _collect(spec: Spec, members: Mapping[str | None, Any]) -> Any:
    if not spec.family:
        return members[None]
    if getattr(spec, "each", ""):
        return {_number(str(i)): v for i, v in members.items()}
    order = sorted(members, key=lambda i: int(str(i)))
    first = int(str(order[0]))
    if [int(str(i)) for i in order] != list(range(first, first + len(order))):
        raise InputError(f"{spec.name}: members {', '.join(map(str, order))} have gaps")
    return [members[i] for i in order]


def _fill(name: str, index: str | None) -> str:
    return name if index is None else re.sub(r"\{\w+\}", index, name, count=1)


def _match(specs: list[Spec], name: str) -> tuple[Spec, str | None, str]:
    for spec in specs:  # a plain name wins over a family that would also fit
        if isinstance(spec, Array) and spec.name == name:
            return spec, None, ""
    for spec in specs:
        pattern = re.sub(
            r"\\\{\w+\\\}",
            r"([0-9.]+?)" if getattr(spec, "each", "") else r"(\\d+)",
            re.escape(spec.name),
        )
        tail = "(.+)" if isinstance(spec, Group) else ""
        hit = re.fullmatch(pattern + tail, name)
        if hit and (spec.family or isinstance(spec, Group)):
            groups = list(hit.groups())
            inner = groups.pop() if isinstance(spec, Group) else ""
            return spec, groups[0] if groups else None, inner
    raise InputError(f"{name!r} is no array of this operation ({', '.join(s.name for s in specs)})")


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
