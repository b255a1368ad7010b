"""What a wrong answer looks like, in plain language.

First the mistakes that the exercise names: the output equals that of the reference with the mistake
planted. Then what any array may suffer: a constant factor, another order of axes or rows, a shift,
lost precision. A diagnosis never holds a value that was expected.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from attnlab.contract import Exhibit
from attnlab.course.difference import compare
from attnlab.course.tasks import Question, Task
from attnlab.vectors import mismatch

SMALL = 1 << 20  # elements; larger answers get no diagnosis by search


def diagnose(exhibit: Exhibit, task: Task, question: Question, got: Mapping[str, Any]) -> str:
    """One or two sentences on a wrong answer (flat names), or "" where nothing is recognised."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return planted(exhibit, task, question, got) or looks(task, question, got)


# --- mistakes that the exercise names ------------------------------------------------------------


def planted(exhibit: Exhibit, task: Task, question: Question, got: Mapping[str, Any]) -> str:
    """What the exercise says of the mistake whose answers these are; "" where it is none of them."""
    for number, mistake in enumerate(exhibit.exercise.mistakes if exhibit.exercise else ()):
        function = _broken(exhibit.name, number, task.name)
        if function is None:
            continue
        try:
            made = _answers(task, function, question)
        except Exception:  # a planted mistake may break the reference on these inputs
            continue
        tolerance = question.rtol, question.atol
        differs = compare(question.expected, made, *tolerance, question.rules)
        if differs and compare(made, got, *tolerance, question.rules) is None:
            return mistake.says
    return ""


@lru_cache(maxsize=1024)
def _broken(name: str, number: int, function: str) -> Callable[..., Any] | None:
    from attnlab.course.answer import broken, load
    from attnlab.registry import find

    exhibit = find(name)
    assert exhibit.exercise is not None
    try:
        space = load(broken(exhibit, exhibit.exercise.mistakes[number]), name)
    except Exception:  # the card's lint tells its author; a student's grade must not depend on it
        return None
    return getattr(space, function, None)


def _answers(task: Task, function: Callable[..., Any], question: Question) -> dict[str, Any]:
    """Flat answers of one of our own functions to a question."""
    from attnlab.checks import convert
    from attnlab.course.tasks import HelperTask
    from attnlab.course.trees import leaves
    from attnlab.flat import flatten

    if isinstance(task, HelperTask):
        return dict(leaves(function(**question.given)))
    checked, _ = convert(task.op, question.given, "numpy")
    made = flatten(task.op.results_on(task.track), function(**checked))
    flat = {k: task.arranged(k, np.asarray(v)) for k, v in made.items()}
    return {k: v for k, v in flat.items() if k in question.expected}


# --- what any array may suffer -------------------------------------------------------------------


def looks(task: Task, question: Question, got: Mapping[str, Any]) -> str:
    """A general diagnosis of the first output that is wrong."""
    difference = compare(question.expected, got, question.rtol, question.atol, question.rules)
    if difference is None:
        return ""
    name = difference.output
    if question.rules.get(name, "close") != "close":
        return ""
    want, made = question.expected.get(name), got.get(name)
    if want is None or made is None:
        return ""
    want, made = np.asarray(want), np.asarray(made)
    if want.dtype.kind not in "fiub" or made.dtype.kind not in "fiub" or want.size > SMALL:
        return ""
    view = _View(name, want, made, task.axes(name, want), question)
    if want.shape != made.shape:
        return next(filter(None, (check(view) for check in SHAPES)), "")
    others = {k: np.asarray(v) for k, v in question.expected.items() if k != name and v is not None}
    for other, value in others.items():
        if value.shape == made.shape and want.ndim and view.close(value, made):
            return f"{name} holds what {other} should hold."
    said = next(filter(None, (check(view) for check in VALUES)), "")
    return said or where(view)


class _View:
    """One output: what was wanted, what was made, the names of its axes."""

    def __init__(
        self, name: str, want: np.ndarray, made: np.ndarray, axes: Sequence[str], question: Question
    ):
        self.name, self.question = name, question
        self.made = made.astype(float) if made.dtype.kind == "b" else made
        self.want = want.astype(float) if want.dtype.kind == "b" else want
        self.flags = want.dtype.kind == "b"
        self.names = list(axes) if len(axes) == want.ndim else []

    def close(self, want: np.ndarray, made: np.ndarray) -> bool:
        if want.shape != made.shape:
            return False
        wrong, _, _ = mismatch(made, want, "close", self.question.rtol, self.question.atol)
        return not wrong.any()

    def axis(self, i: int) -> str:
        named = self.names[i] if i < len(self.names) else ""
        return f"axis {i} ({named})" if named and not named.isdigit() else f"axis {i}"


def squeezed(v: _View) -> str:
    """Right values, axes of length one lost or added; or flattened."""
    if v.want.size != v.made.size:
        return ""
    thin = [tuple(s for s in a.shape if s != 1) for a in (v.want, v.made)]
    if v.close(v.want, v.made.reshape(v.want.shape)):
        if thin[0] == thin[1]:
            word = "lost" if v.made.ndim < v.want.ndim else "extra"
            return f"the values of {v.name} are right, but an axis of length 1 is {word}."
        return f"the values of {v.name} are right and in order; they need the shape {v.want.shape}."
    return ""


def transposed(v: _View) -> str:
    """The axes in another order."""
    if v.want.ndim != v.made.ndim or not 2 <= v.want.ndim <= 5:
        return ""
    for axes in itertools.permutations(range(v.want.ndim)):
        if list(axes) == sorted(axes):
            continue
        if v.close(v.want.transpose(axes), v.made):
            names = [v.names[a] if v.names else str(a) for a in axes]
            return f"the axes of {v.name} are in another order: yours are ({', '.join(names)})."
    return ""


def summed(v: _View) -> str:
    """An axis is gone, or there is one too many."""
    if v.made.ndim == v.want.ndim - 1:
        for axis in range(v.want.ndim):
            if v.want.shape[:axis] + v.want.shape[axis + 1 :] == v.made.shape:
                for word, reduced in (("sum", v.want.sum(axis)), ("mean", v.want.mean(axis))):
                    if v.close(reduced, v.made):
                        return f"{v.name} is the {word} over {v.axis(axis)}; keep that axis."
    return ""


def zeros(v: _View) -> str:
    """All zeros, all NaN, rows of NaN."""
    if not v.made.size or not v.want.ndim:
        return ""
    bad = np.isnan(v.made) & ~np.isnan(v.want)
    if bad.all():
        return f"{v.name} is NaN everywhere: look for 0/0, inf - inf or the log of 0."
    if bad.any():
        rows = bad.reshape(-1, bad.shape[-1])
        whole = rows.all(axis=-1)
        if whole[rows.any(axis=-1)].all():
            count, noun = int(whole.sum()), "row is" if whole.sum() == 1 else "rows are"
            return (
                f"{count} whole {noun} NaN in {v.name}: a softmax or a division where nothing is "
                "left to sum over?"
            )
        return f"{int(bad.sum())} of {bad.size} values of {v.name} are NaN."
    if not v.made.any() and v.want.any():
        return f"{v.name} is zero everywhere."
    return ""


def integers(v: _View) -> str:
    """Truncated by an integer dtype."""
    if v.want.dtype.kind == "f" and v.made.dtype.kind in "iu" and np.isfinite(v.want).all():
        for rounded in (np.trunc(v.want), np.rint(v.want), np.floor(v.want)):
            if v.want.any() and (rounded == v.made).all():
                return (
                    f"{v.name} has dtype {v.made.dtype}: fractions were cut off. An array made from "
                    "integers (zeros_like of integers, say) holds only integers."
                )
    return ""


def factor(v: _View) -> str:
    """A constant factor, or a constant term, named where it is one of the call's numbers. What a
    single number misses by tells something only where it is such a one, or whole."""
    big = np.abs(v.want) > 1e-12
    usable = big & np.isfinite(v.want) & np.isfinite(v.made)
    if v.flags or not usable.any():
        return ""
    if usable.sum() == 1:
        return _single_factor(v, float(v.made[usable][0]), float(v.want[usable][0]))
    ratios = v.made[usable] / v.want[usable]
    ratio = float(np.median(ratios))
    if ratio and math.isfinite(ratio) and v.close(v.want * ratio, v.made):
        if ratio == -1 or abs(ratio + 1) < 1e-6:
            return f"{v.name} has the wrong sign."
        return f"{v.name} is {_named_factor(ratio, v)} times what it should be."
    shift = float(np.median((v.made - v.want)[usable]))
    if abs(shift) > 1e-6 and v.close(v.want + shift, v.made):
        return f"{v.name} is off by the same amount everywhere ({shift:.4g})."
    return ""


def _single_factor(v: _View, made: float, want: float) -> str:
    if not made or v.want.dtype.kind != "f" or v.want.size > 1:
        return ""
    if math.isclose(made, -want, rel_tol=1e-7):
        return f"{v.name} has the wrong sign."
    for ratio, text in ((made / want, "{} times"), (want / made, "1/{} of")):
        if ratio > 1.5 and math.isclose(ratio, round(ratio), rel_tol=1e-7):
            return (
                f"{v.name} is {text.format(round(ratio))} what it should be: a sum where a mean is "
                "asked for, or the other way round?"
            )
    named = _named_factor(made / want, v)
    return "" if named[-1:].isdigit() else f"{v.name} is {named} times what it should be."


def precision(v: _View) -> str:
    """Right to about seven digits."""
    if v.want.dtype.kind != "f" or not np.isfinite(v.made).all():
        return ""
    scale = float(np.abs(v.want[np.isfinite(v.want)]).max(initial=0.0))
    half = v.made.dtype == np.float16
    error = float(np.nan_to_num(np.abs(v.made - v.want), nan=np.inf).max(initial=0.0))
    if scale and error < (1e-2 if half else 2e-5) * scale:
        if v.made.dtype.itemsize < 8:
            return (
                f"{v.name} has dtype {v.made.dtype} where the inputs are float64: right but for "
                "rounding. Keep the inputs' precision."
            )
        return (
            f"{v.name} is right but for rounding (error {error / scale:.0e} of the largest value): "
            "was something computed in float32, or an epsilon added?"
        )
    return ""


def shifted(v: _View) -> str:
    """Moved by one along an axis, or reversed."""
    for axis, length in enumerate(v.want.shape):
        if length < 3:
            continue
        want, made = np.moveaxis(v.want, axis, 0), np.moveaxis(v.made, axis, 0)
        if v.close(want[::-1], made):
            return f"{v.name} is reversed along {v.axis(axis)}."
        if v.close(want[1:], made[:-1]):
            return f"{v.name} is shifted by one along {v.axis(axis)}: position i holds what belongs at i + 1."
        if v.close(want[:-1], made[1:]):
            return f"{v.name} is shifted by one along {v.axis(axis)}: position i holds what belongs at i - 1."
    return ""


def permuted(v: _View) -> str:
    """The same slices along an axis in another order; flags are too often equal to tell."""
    for axis, length in enumerate(() if v.flags else v.want.shape):
        if not 2 <= length <= 256 or v.want.size // length < 2 or v.want.size * length > 4 * SMALL:
            continue
        want = np.moveaxis(v.want, axis, 0).reshape(length, -1).astype(float)
        made = np.moveaxis(v.made, axis, 0).reshape(length, -1).astype(float)
        gap = np.abs(made[:, None] - want[None])
        bound = v.question.atol + v.question.rtol * np.abs(want)[None]
        same = (gap <= bound).all(axis=-1)
        if same.any(axis=1).all() and same.any(axis=0).all():
            return f"{v.name} holds the right slices along {v.axis(axis)}, but in another order."
    return ""


def normalised(v: _View) -> str:
    """Sums to one along another axis than it should."""
    if v.want.dtype.kind != "f" or v.want.ndim < 2 or (v.made < -1e-9).any():
        return ""
    ones = [
        {i for i, s in enumerate(a.shape) if s > 1 and np.allclose(a.sum(i), 1, atol=1e-6)}
        for a in (v.want, v.made)
    ]
    if ones[0] and ones[1] and not ones[0] & ones[1]:
        right, wrong = (v.axis(min(s)) for s in ones)
        return f"{v.name} sums to 1 along {wrong}, but should along {right}: normalise over the other axis."
    if ones[0] and not ones[1]:
        return f"{v.name} should sum to 1 along {v.axis(min(ones[0]))}, but does not."
    return ""


def where(v: _View) -> str:
    """Errors that keep to one end of an axis."""
    wrong, _, _ = mismatch(v.made, v.want, "close", v.question.rtol, v.question.atol)
    for axis, length in reversed(list(enumerate(v.want.shape))):
        if length < 3:
            continue
        at = np.flatnonzero(wrong.any(axis=tuple(i for i in range(wrong.ndim) if i != axis)))
        if len(at) == 1:
            spot = {0: "the first position", length - 1: "the last position"}
            return (
                f"all errors lie at {spot.get(int(at[0]), f'position {at[0]}')} of {v.axis(axis)}."
            )
        if 1 < len(at) < length and at[-1] - at[0] == len(at) - 1:
            if at[-1] == length - 1:
                return f"along {v.axis(axis)}, all is right before position {at[0]}."
            if at[0] == 0:
                return f"along {v.axis(axis)}, all is right after position {at[-1]}."
    return ""


SHAPES = (squeezed, transposed, summed)
VALUES = (
    zeros, integers, factor, precision, transposed, shifted, permuted, normalised,
)  # fmt: skip


def _named_factor(ratio: float, v: _View) -> str:
    """A ratio in the call's own terms: sqrt(dim), 1/n, 2 …; else its value."""
    for name, value in _candidates(v):
        for label, x in ((name, value), (f"1/{name}", 1 / value)):
            for sign, prefix in ((1, ""), (-1, "-")):
                if math.isclose(ratio, sign * x, rel_tol=1e-5):
                    return prefix + label
    return f"{ratio:.4g}"


def _candidates(v: _View) -> Iterator[tuple[str, float]]:
    """Numbers of the call, the likely ones first: widths scale scores by their square roots."""
    sizes = {k: s for k, s in v.question.sizes.items() if s > 1}
    widths = sorted((k for k in sizes if "dim" in k or "width" in k), key=lambda k: (len(k), k))
    others = sorted(set(sizes) - set(widths), key=lambda k: (k != "n", k))
    yield from ((f"sqrt({k})", math.sqrt(sizes[k])) for k in widths)
    yield "2", 2.0
    yield from ((k, float(sizes[k])) for k in (*widths, *others))
    yield from ((f"sqrt({k})", math.sqrt(sizes[k])) for k in others)
    yield from (("sqrt(2)", math.sqrt(2)), ("pi", math.pi), ("log(2)", math.log(2)), ("e", math.e))
