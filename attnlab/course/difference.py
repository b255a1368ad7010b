"""How what a submission returned differs from what it had to return.

`compare` finds the first output that is wrong; `tell` puts it into a sentence and `veil` takes out
what a level of detail hides: "full" shows both values, "actual-only" what was returned, where it
is wrong and roughly how far off, "none" nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from attnlab.course.model import Details, Difference
from attnlab.vectors import mismatch

NUMBERS = "fiub"


def compare(
    expected: Mapping[str, Any],
    got: Mapping[str, Any],
    rtol: float,
    atol: float,
    rules: Mapping[str, str] | None = None,
) -> Difference | None:
    """The first output that misses, or None. Both map flat names to arrays (or None).

    Integers and flags must be equal, floats within atol + rtol * |expected|; NaN equals NaN and
    infinity itself. Numbers count by value: a float 3.0 is the integer 3.
    """
    for name, value in expected.items():
        rule = (rules or {}).get(name, "close")
        if rule == "skip":
            continue
        if name not in got:
            shape = None if value is None else np.shape(value)
            return Difference(name, expected_shape=shape)
        found = _leaf(name, value, got[name], rule, rtol, atol)
        if found:
            return found
    for name, value in got.items():
        if name not in expected:
            return Difference(name, shape=_array(value).shape, dtype=_dtype(value))
    return None


def _leaf(
    name: str, expected: Any, got: Any, rule: str, rtol: float, atol: float
) -> Difference | None:
    if expected is None or got is None:
        shapes = [None if v is None else _array(v).shape for v in (got, expected)]
        same = expected is None and got is None
        return None if same else Difference(name, shapes[0], shapes[1], dtype=_dtype(got))
    want, made = _array(expected), _array(got)
    base = Difference(
        name, made.shape, want.shape, str(made.dtype), wrong=want.size, size=want.size
    )
    if made.shape != want.shape or not _comparable(made, want):
        return base
    if want.dtype.kind == "c" or made.dtype.kind == "c":
        gap = np.abs(made - want)
        wrong, bound = ~(gap <= atol + rtol * np.abs(want)), np.full(want.shape, atol)
    else:
        rule = "exact" if want.dtype.kind in "iub" and rule == "close" else rule
        rule = "exact" if not want.ndim and rule in ("set", "ties") else rule
        wrong, gap, bound = mismatch(made, want, rule, rtol, atol)
        if rule in ("set", "ties"):
            made, want = np.sort(made, axis=-1), np.sort(want, axis=-1)
        elif rule == "exact" and want.dtype.kind in "iub":
            gap = np.abs(made.astype(np.float64) - want.astype(np.float64))
    if not wrong.any():
        return None
    first = _index(np.argwhere(wrong)[0])
    height = np.where(wrong, np.nan_to_num(gap, nan=np.inf), -1.0)
    worst = _index(np.unravel_index(int(height.argmax()), height.shape))
    error, numeric = float(height[worst]), want.dtype.kind not in "US"
    return replace(
        base,
        first=first,
        got=plain(made[first]),
        expected=plain(want[first]),
        worst=worst if numeric else first,
        error=error if numeric and math.isfinite(error) else None,
        tolerance=float(bound[worst]) if numeric else None,
        wrong=int(wrong.sum()),
    )


def tell(difference: Difference, details: Details = "full") -> str:
    """One sentence on a difference; without expected values unless details is "full"."""
    d = difference
    if details == "none":
        return "wrong answer"
    if d.shape is None and d.expected_shape is None:
        return f"{d.output} was not returned"
    if d.shape is None:
        return f"{d.output} was not returned; expected an array of shape {d.expected_shape}"
    if d.expected_shape is None:
        return f"{d.output} was returned, but there should be no such member"
    if d.shape != d.expected_shape:
        return f"{d.output} has shape {d.shape}, expected {d.expected_shape}"
    if d.first is None:
        return f"{d.output} has dtype {d.dtype}, which cannot hold the answer"
    where = f" at {_place(d.first)}" if d.first else ""
    text = f"{d.output}{where} is {_value(d.got)}"
    if details == "full":
        text += f", expected {_value(d.expected)}"
    else:
        text += ", which is wrong"
    if d.error is not None and d.size > 1:
        digits = (
            ".3g" if details == "full" else ".1g"
        )  # roughly: a value plus its error is the answer
        text += f"; largest error {d.error:{digits}} at {_place(d.worst or ())}"
    return text + (f"; {d.wrong} of {d.size} values differ" if d.size > 1 else "")


def veil(difference: Difference | None, details: Details) -> Difference | None:
    """The difference as a level of detail shows it."""
    if difference is None or details == "none":
        return None
    if details == "full":
        return difference
    rough = None if difference.error is None else float(f"{difference.error:.0e}")
    # what is allowed is a share of the expected value, and would tell it
    return replace(difference, expected=None, error=rough, tolerance=None)


def plain(value: Any) -> Any:
    """A NumPy scalar as a Python one that JSON can hold: NaN and infinity, which it cannot, as text."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value[:200] if isinstance(value, str | bytes) else value


def _comparable(made: np.ndarray, want: np.ndarray) -> bool:
    if want.dtype.kind in "US":
        return made.dtype.kind == want.dtype.kind
    if want.dtype.kind == "c":
        return made.dtype.kind in NUMBERS + "c"
    return made.dtype.kind in NUMBERS


def _array(value: Any) -> np.ndarray:
    """The value as an array; a ragged list or anything odd is an array of objects."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        return np.empty((), dtype=object)


def _dtype(value: Any) -> str:
    return "" if value is None else str(_array(value).dtype)


def _index(index: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in index)


def _place(index: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, index)) + "]"


def _value(value: Any) -> str:
    return (
        f"{value:.6g}"
        if isinstance(value, float)
        else repr(value)
        if isinstance(value, str) and value not in ("nan", "inf", "-inf")
        else str(value)
    )
