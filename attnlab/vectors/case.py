"""One case of a file of test vectors, and the arguments it gives its operation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnlab.contract import Array, Group, InputError, Operation, Option
from attnlab.expressions import names_in
from attnlab.flat import declared, unflatten


class VectorError(ValueError):
    """A file that is no pair of test vectors; the message says which file and what is wrong."""


@dataclass(frozen=True)
class Case:
    """One case: what goes in, what must come out and how closely."""

    name: str
    exhibit: str
    operation: str
    options: dict[str, Any]
    arrays: dict[str, dict[str, np.ndarray]]  # section -> name -> array
    loss: dict[str, Any] = field(default_factory=dict)
    grad_of: dict[str, str] = field(default_factory=dict)
    compare: dict[str, str] = field(default_factory=dict)
    rtol: float = 1e-9
    atol: float = 1e-11
    note: str = ""

    @property
    def cotangents(self) -> dict[str, str]:
        return self.loss.get("cotangent", {})

    def arguments(self, op: Operation) -> dict[str, Any]:
        """Keyword arguments of the operation; cotangents, and other arrays that only the loss names,
        are no inputs. Floats share one dtype, half precision being read as float32, as do whole
        numbers that a file stores as integers where floats are declared; an empty list of integers,
        which NumPy makes floats, is one of integers. Options may lie among the arrays, or be numbers
        of another kind but the same value; one that is null is left at its default."""
        loss_only = set(self.cotangents.values()) | {
            name for name in self._in_formula if not _declares(op.arguments, name)
        }
        flat = {k: v for k, v in self.arrays["in"].items() if k not in loss_only}
        flat |= self.arrays["param"]
        options = self.options | {
            name: flat.pop(name).tolist() for name in set(flat) & {o.name for o in op.options}
        }
        floats = [v.dtype for v in flat.values() if v.dtype.kind == "f"]
        common = np.result_type(np.float32, *floats) if floats else np.dtype(np.float64)
        for name, value in flat.items():
            kind = declared(op.arguments, name).dtype
            if value.dtype.kind == "f" and not value.size and kind == "int":
                flat[name] = value.astype(np.int64)
            elif value.dtype.kind == "f" or (value.dtype.kind in "iu" and kind == "float"):
                flat[name] = value.astype(common)
        known = {o.name: o for o in op.options}
        for name in options.keys() & known.keys():
            options[name] = _as_declared(known[name], options[name])
        given = {k: v for k, v in options.items() if v is not None or _takes_none(known.get(k))}
        return unflatten(op.arguments, flat) | given

    def loss_outputs(self, op: Operation) -> set[str]:
        """Outputs that the loss is of. Raises InputError where it names one that is not declared."""
        named = {*self.cotangents, *self.loss.get("sum", ())}
        named |= {self.loss["output"]} if "output" in self.loss else set()
        for output in named:
            declared(op.results, output)
        return named | {name for name in self._in_formula if _declares(op.results, name)}

    @property
    def _in_formula(self) -> frozenset[str]:
        try:
            return names_in(self.loss.get("formula") or "0")
        except SyntaxError:  # prose: refused where gradients need it
            return frozenset()


def _as_declared(option: Option, value: Any) -> Any:
    """4.0 for the integer 4, and 1 or 0 for a truth, as other programs write them."""
    if option.type is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if option.type is bool and value in (0, 1):
        return bool(value)
    return value


def _takes_none(option: Option | None) -> bool:
    return option is None or None in (option.choices or ())


def _declares(specs: Iterable[Array | Group], name: str) -> bool:
    try:
        declared(specs, name)
    except InputError:
        return False
    return True
