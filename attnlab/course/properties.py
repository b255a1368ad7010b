"""Properties that the headline operation must have, each of which counts only where the answer at
that size is right.

Which of them an exercise has is settled beforehand, with the reference, and does not depend on the
seed: what the reference itself does not hold is asked of nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnlab.checks import convert
from attnlab.contract import Array, InputError, Operation
from attnlab.course.candidate import Candidate, Verdict, failed
from attnlab.course.difference import compare
from attnlab.course.tasks import OperationTask, Question, seed_of, undecorated
from attnlab.course.trees import tokens

N = 9  # an awkward small size: odd, no multiple of any tile
CUT = N // 2
TIGHT = 1e-9  # what does not depend on something may not move by more
SAME = 1e-12  # two runs of one call
REFUSALS = 3


@dataclass(frozen=True, eq=False)
class Property:
    """`name` stands in the item's id; `judge` asks the candidate."""

    name: str
    about: str
    judge: Callable[[Candidate], Verdict]


def base(task: OperationTask, seed: int) -> Question:
    """The call that has to be answered rightly before any property, or cost, counts."""
    return _drawn(task, seed, "base")


def _drawn(task: OperationTask, seed: int, kind: str, n: int = N, **sizes: Any) -> Question:
    """A draw whose sizes and options are the same for every seed."""
    trial = task.draw(n, seed_of(0, "property", kind), sizes)
    return task.draw(n, seed_of(seed, "property", kind), trial.drawn)


def properties(task: OperationTask, seed: int, base: Question) -> list[Property]:
    """Those of a headline, drawn with this seed."""
    found = _Properties(task, seed, base)
    made = [found.single(), found.untouched(), found.deterministic(), found.causal(), found.batch()]
    return [p for p in made if p is not None] + found.refusals()


class _Properties:
    """`question` draws by the seed; `trial` is the same call for everybody, held by the reference."""

    def __init__(self, task: OperationTask, seed: int, base: Question):
        self.task, self.op, self.seed, self.base = task, task.op, seed, base
        self.causes = {"causal": True} if self.op.option("causal") else {}

    def _draw(self, kind: str, n: int = N, **sizes: Any) -> Question:
        return _drawn(self.task, self.seed, kind, n, **sizes)

    def single(self) -> Property | None:
        try:
            question = self._draw("single", 1)
        except InputError:
            return None

        def judge(candidate: Candidate) -> Verdict:
            # much is right at n = 1 that is right nowhere else
            verdict = candidate.agrees(self.task, self.base)
            return candidate.answer(self.task, question) if verdict.passed else unmet(verdict)

        return Property("one", "n = 1 works", judge)

    def untouched(self) -> Property:
        def judge(candidate: Candidate) -> Verdict:
            verdict = candidate.agrees(self.task, self.base)
            if not verdict.passed:
                return unmet(verdict)
            after = verdict.reply.inputs
            for name, value in self.base.arguments.items():
                now = after.get(name) if isinstance(after, Mapping) else None
                if not _same(value, now):
                    return Verdict("wrong", f"it changes its argument {name}; work on a copy")
            return verdict

        return Property("inputs-untouched", "arguments are as they were after the call", judge)

    def deterministic(self) -> Property:
        def judge(candidate: Candidate) -> Verdict:
            first = candidate.agrees(self.task, self.base)
            if not first.passed:
                return unmet(first)
            second = candidate.answer(self.task, self.base)
            if not second.passed:
                return second
            if compare(first.got or {}, second.got or {}, SAME, SAME):
                return Verdict("wrong", "two calls with the same arguments gave different answers")
            return second

        return Property("deterministic", "the same call gives the same answer twice", judge)

    def causal(self) -> Property | None:
        if not self.op.causal or "causality" in self.op.exempt:
            return None
        if self.task.vary.get("causal") is False:
            return None
        time = self.op.causal.split()
        return self._apart(
            "causal", "no output looks ahead", time, slice(CUT, None), slice(0, CUT), self.causes,
            f"outputs before position {CUT} of {time[0]} change when only later inputs do",
        )  # fmt: skip

    def batch(self) -> Property | None:
        inputs = [a for a in self.op.inputs if isinstance(a, Array)]
        if "batch" in self.op.exempt or not any(self.op.batch in a.shape.split() for a in inputs):
            return None
        return self._apart(
            "batch-apart", "elements of the batch do not see each other", [self.op.batch],
            slice(0, 1), slice(1, None), {},
            f"elements of the {self.op.batch} change when only another one's inputs do",
        )  # fmt: skip

    def _apart(
        self, name: str, about: str, dims: Sequence[str], changed: slice, kept: slice,
        sizes: Mapping[str, Any], fault: str,
    ) -> Property | None:  # fmt: skip
        """Inputs change at `changed` of the dimensions; outputs at `kept` of the first must not."""

        def pair(seed: int) -> tuple[Question, Question]:
            before = _drawn(self.task, seed, name, **sizes)
            other = self.task.draw(N, seed_of(seed, "other", name), before.drawn, telling=False)
            given = perturbed(self.op, before.given, other.given, dims, changed)
            return before, self.task.question(given)

        def moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool | None:
            seen, different = 0, False
            for output in before:
                now = [np.asarray(a[output]) for a in (before, after)]
                axes = self.task.axes(output, now[0])
                if now[0].ndim == now[1].ndim and dims[0] in axes:
                    views = _kept(now, axes, dims[0], kept)
                    seen += views[0].size
                    different |= compare({"": views[0]}, {"": views[1]}, TIGHT, TIGHT) is not None
            return different if seen else None

        try:
            trial = pair(0)
            if moved(trial[0].expected, trial[1].expected) is not False:
                return None
            questions = pair(self.seed)
        except InputError:
            return None

        def judge(candidate: Candidate) -> Verdict:
            first = candidate.agrees(self.task, questions[0])
            if not first.passed:
                return unmet(first)
            second = candidate.answer(self.task, questions[1])
            if second.got is None:
                return second
            return Verdict("wrong", fault) if moved(first.got or {}, second.got) else second

        return Property(name, about, judge)

    def refusals(self) -> list[Property]:
        """Bad shapes over which the reference itself stumbles. On the numba track there are none: a
        compiled loop reads past the end of an array instead of raising."""
        if self.task.track == "numba":
            return []
        trial = _drawn(self.task, 0, "base")
        chosen: list[tuple[str, int | None, str]] = []
        for name, axis, about in bad_shapes(self.task, trial.given):
            if len(chosen) < REFUSALS and self._refused(trial.given, name, axis):
                chosen.append((name, axis, about))
        return [
            Property(f"refuses-{i}", about, self._refusal(name, axis, about))
            for i, (name, axis, about) in enumerate(chosen, 1)
        ]

    def _refusal(self, name: str, axis: int | None, about: str) -> Callable[[Candidate], Verdict]:
        checked, _ = convert(self.op, self.base.given, "numpy")
        plain = {k: checked[k] for k in self.base.given}
        arguments = self.task.sent(plain | {name: misshapen(plain[name], axis)})

        def judge(candidate: Candidate) -> Verdict:
            verdict = candidate.agrees(self.task, self.base)
            if not verdict.passed:
                return unmet(verdict)
            reply, _ = candidate.ask(self.task.name, arguments)
            if reply.status == "error":
                return Verdict("passed")
            if reply.status == "passed":
                return Verdict("wrong", f"it returns an answer where it should raise: {about}")
            return failed(reply)

        return judge

    def _refused(self, given: Mapping[str, Any], name: str, axis: int | None) -> bool:
        """Whether the undecorated reference (and torch path, on its track) raises."""
        checked, _ = convert(self.op, given, "numpy")
        bad = checked | {name: misshapen(checked[name], axis)}
        paths = [("reference", bad)]
        if self.task.track == "torch":
            import torch

            tensors = convert(self.op, given, "torch")[0]
            paths.append(("torch", tensors | {name: torch.from_numpy(bad[name].copy())}))
        for file, arguments in paths:
            try:
                with np.errstate(all="ignore"):
                    undecorated(self.op.exhibit, self.op.name, file)(**arguments)
            except NotImplementedError:
                return False
            except Exception:
                continue
            return False
        return True


def unmet(verdict: Verdict) -> Verdict:
    """A property whose own call is not right: it does not count."""
    if verdict.status != "wrong":
        return verdict
    return Verdict("not run", "it counts only where the answer is right, which it is not here")


def bad_shapes(
    task: OperationTask, given: Mapping[str, Any]
) -> Iterator[tuple[str, int | None, str]]:
    """(array, axis, about): arrays one longer along a dimension that another array has too, every
    array and every dimension once before any comes again; then arrays of a wrong rank (axis None)."""
    present = [
        a for a in task.op.inputs
        if isinstance(a, Array) and not a.family and isinstance(given.get(a.name), np.ndarray)
        and a.dtype != "text"
    ]  # fmt: skip
    axes = {a.name: tokens(a.shape, given[a.name]) for a in present}
    left = {
        (name, axis): (token, next(o for o in axes if o != name and token in axes[o]))
        for name, dims in axes.items()
        for axis, token in enumerate(dims)
        if token.isidentifier() and any(o != name and token in axes[o] for o in axes)
    }
    used: Counter[str] = Counter()
    while left:
        name, axis = min(left, key=lambda at: (used[f"array {at[0]}"], used[left[at][0]]))
        token, other = left.pop((name, axis))
        used.update([f"array {name}", token])
        yield name, axis, f"{name} one longer than {other} along {token}"
    for name in axes:
        yield name, None, f"{name} with two axes too many"


def misshapen(array: np.ndarray, axis: int | None) -> np.ndarray:
    """One longer along an axis, or of a wrong rank."""
    if axis is None:
        return np.ascontiguousarray(array[None, ..., None])
    return np.concatenate([array, np.take(array, [0], axis)], axis)


def perturbed(
    op: Operation, given: Mapping[str, Any], other: Mapping[str, Any], dims: Sequence[str],
    where: slice,
) -> dict[str, Any]:  # fmt: skip
    """Floats at `where` along the dimensions from another draw (which is valid input: a row of
    attention still sums to 1), or normal where its shape differs or it is the same; integers and
    flags rolled."""
    changed, rng = dict(given), np.random.default_rng(N)
    for spec in op.arguments:
        value = given.get(spec.keyword)
        if not isinstance(spec, Array) or spec.family or value is None or spec.dtype == "text":
            continue
        value, fresh = np.array(value), np.asarray(other.get(spec.keyword))
        for axis, token in enumerate(tokens(spec.shape, value)):
            if token in dims:
                at = (slice(None),) * axis + (where,)
                part = value[at]
                if part.dtype.kind != "f":
                    value[at] = np.roll(part, 1)
                elif fresh.shape == value.shape and (fresh[at] != part).any():
                    value[at] = fresh[at]
                else:
                    value[at] = rng.standard_normal(part.shape)
        changed[spec.keyword] = value
    return changed


def _kept(
    pair: Sequence[np.ndarray], axes: Sequence[str], dim: str, kept: slice
) -> list[np.ndarray]:
    """The parts of two outputs that must be equal; an axis whose size depends on the data is padded
    to the longest element, so that only what both have counts."""
    both = [
        slice(min(x, y) if token == "_" else None)
        for token, x, y in zip(axes, pair[0].shape, pair[1].shape)
    ]
    at = axes.index(dim)
    return [a[tuple(both)][(slice(None),) * at + (kept,)] for a in pair]


def _same(before: Any, after: Any) -> bool:
    """Whether a tree of arguments came back as it went."""
    if isinstance(before, np.ndarray):
        if not isinstance(after, np.ndarray) or before.shape != after.shape:
            return False
        return before.dtype == after.dtype and before.tobytes() == np.asarray(after).tobytes()
    if isinstance(before, Mapping):
        return isinstance(after, Mapping) and all(_same(v, after.get(k)) for k, v in before.items())
    if isinstance(before, list | tuple):
        same = isinstance(after, list | tuple) and len(after) == len(before)
        return same and all(_same(x, y) for x, y in zip(before, after))
    return bool(before == after) or before is after
