"""What an exercise asks on a track: functions, calls of them, and the answers of the reference.

A `Task` is one function that a submission must define: an operation of the exhibit, or a helper of
its reference.py. Its `draw` makes a `Question`: the arguments as the submission gets them and the
answers that it must give, by flat names. A course may change an option (`vary`: the submission is
called without it, the answers are computed with it) and the order of axes (`order`: arrays are
transposed before they are sent, answers are expected in the course's order).
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attnlab.checks import convert, unify
from attnlab.contract import Array, Exhibit, Group, InputError, Operation, Part
from attnlab.course.config import Assignment
from attnlab.course.model import TRACKS, Track
from attnlab.course.trees import copied, leaves, permutation, tokens
from attnlab.expressions import evaluate, names_in
from attnlab.flat import declared, flatten

RTOL, ATOL = 1e-6, 1e-8  # of float64 answers
NOTHING = "it returned None: is a `return` missing?"
TRIES = 100  # draws of options, which the reference may refuse
TELLING = 20  # of those that it takes, for one whose answer shows the course's options


class Unnamed(ValueError):
    """What a submission returned cannot be read as the outputs asked for; the message says why."""


@dataclass(frozen=True, eq=False)
class Question:
    """One call: `arguments` as the submission gets them, `expected` the flat answers, `given` the
    arguments of the reference (the contract's order of axes, the course's options among them).

    `rules` compares outputs as test vectors do ("exact", "set", "ties", "skip"); sizes are the
    named dimensions of the call, drawn the sizes and options that a draw chose.
    """

    arguments: Mapping[str, Any]
    expected: Mapping[str, Any]
    given: Mapping[str, Any]
    required: tuple[str, ...] = ()
    about: str = ""
    rtol: float = RTOL
    atol: float = ATOL
    rules: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    drawn: Mapping[str, Any] = field(default_factory=dict)


def seed_of(*parts: object) -> int:
    """A seed of 32 bits that depends on all parts, and on nothing else."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def undecorated(exhibit: Exhibit, name: str, file: str = "reference") -> Callable[..., Any]:
    """A function of the exhibit's reference.py (or torch.py) as it is written there."""
    function = getattr(importlib.import_module(f"{exhibit.package}.{file}"), name)
    return getattr(function, "__wrapped__", function)


class OperationTask:
    """An operation of the exhibit; `vary` and `order` are the course's, for the headline."""

    def __init__(
        self,
        op: Operation,
        track: Track,
        vary: Mapping[str, Any] | None = None,
        order: Mapping[str, str] | None = None,
        example: Callable[[int, np.random.Generator], dict[str, Any]] | None = None,
    ):
        self.op, self.name, self.track, self.example = op, op.name, track, example
        self.vary, self.order = dict(vary or {}), dict(order or {})

    def draw(
        self,
        n: int,
        seed: int,
        sizes: Mapping[str, Any] | None = None,
        varied: bool = False,
        telling: bool = True,
    ) -> Question:
        """A question of size n; `varied` draws sizes and options from the card's `vary`.

        Where the course varies an option, draws (with `telling`) whose answer does not depend on it (a scale of 1/2
        where dim is 4) are passed over, as long as there are others. Raises InputError where the
        reference refuses what was asked for.
        """
        rng, found, told = np.random.default_rng(seed), None, 0
        why = InputError(f"{self.name}: no inputs of size {n}")
        for attempt in range(TRIES if varied or (telling and self.vary) else 1):
            # an example of its own chooses for itself
            choose = (varied or attempt > 0) and self.example is None
            drawn = {k: pick(v, rng) for k, v in self.op.vary.items()} if choose else {}
            drawn |= dict(sizes or {})
            try:
                given = self.sample(n, seed + attempt, drawn)
                told_of = drawn if self.example is None else self._options(given)
                made = self.question(given, _describe({"n": n} | told_of, self.vary))
            except InputError as error:
                why = error
                continue
            found, told = replace(made, drawn=drawn), told + 1
            if not telling or told >= TELLING or self.tells(found):
                break
        if found is None:
            raise why
        return found

    def tells(self, question: Question) -> bool:
        """Whether leaving the course's options out gives another answer."""
        if not self.vary:
            return True
        try:
            plain = self.reference({k: v for k, v in question.given.items() if k not in self.vary})
        except InputError:
            return True
        for name, value in question.expected.items():
            other = plain.get(name)
            if other is None or other.shape != value.shape:
                return True
            if value.dtype.kind in "fiub" and not np.allclose(other, value, 1e-4, 1e-6, True):
                return True
        return False

    def sample(self, n: int, seed: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the reference; the course's options hold whatever the example says."""
        if self.example is not None:
            return self.example(n, np.random.default_rng(seed)) | self.vary
        known = {k: v for k, v in sizes.items() if k in self.op.sizes or self.op.option(k)}
        for name, value in self.vary.items():  # a size and an option may share their name alone
            default = self.op.sizes.get(name)
            if default is None or type(default) is type(value):
                known[name] = value
        supplied = self.op.prepared(n, seed, **known)
        return supplied | self.op.sample(n, seed, **known) | self.vary

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {o.name: given[o.name] for o in self.op.options if o.name in given}

    def question(
        self, given: Mapping[str, Any], about: str = "", expected: Mapping[str, Any] | None = None
    ) -> Question:
        """The question that these arguments make; answers by the reference unless they are given.

        Raises InputError where the arguments do not fit the declaration.
        """
        checked, _ = convert(self.op, given, "numpy")
        required = self.required(given)
        if expected is None:
            expected = self.reference(given)
        return Question(
            arguments=self.sent({k: checked[k] for k in given}),
            expected={k: v for k, v in expected.items() if self.keyword(k) in required},
            given=dict(given),
            required=required,
            about=about,
            sizes=self._sizes(checked),
        )

    def reference(self, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Flat answers in the course's order of axes, all that the reference gives unasked."""
        result = self.op.exhibit.run(self.name, backend="numpy", **given)._asdict()
        flat = flatten(self.op.results_on(self.track), result)
        return {k: self.arranged(k, np.asarray(v)) for k, v in flat.items()}

    def required(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """Keywords of the outputs that a call must return."""
        present: dict[str, Any] = {
            a.keyword: given.get(a.keyword) is not None for a in self.op.arguments
        }
        present |= {o.name: given.get(o.name, o.default) for o in self.op.options}
        specs = (a for a in self.op.results_on(self.track) if not a.optional)
        return tuple(a.keyword for a in specs if not a.when or evaluate(a.when, present))

    def sent(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments for the submission: the course's order, its options left out, None for what is
        absent and has no default in the reference's signature."""
        sent = {k: v for k, v in arguments.items() if k not in self.vary}
        for spec in self.op.arguments:
            if spec.name in self.order and sent.get(spec.keyword) is not None:
                value = sent[spec.keyword]
                many = isinstance(value, list)
                sent[spec.keyword] = (
                    [self.arranged(spec.name, v) for v in value]
                    if many
                    else self.arranged(spec.name, value)
                )
        signature = inspect.signature(undecorated(self.op.exhibit, self.name)).parameters
        for keyword in (a.keyword for a in self.op.arguments):
            parameter = signature.get(keyword)
            if keyword not in sent and parameter and parameter.default is inspect.Parameter.empty:
                sent[keyword] = None
        return sent

    def arranged(self, name: str, array: np.ndarray) -> np.ndarray:
        """An array of the contract in the course's order of axes."""
        spec = self._spec(name)
        if spec is None or spec.name not in self.order:
            return array
        axes = permutation(spec.shape, self.order[spec.name])
        return np.ascontiguousarray(array.transpose(axes)) if array.ndim == len(axes) else array

    def axes(self, name: str, array: Any) -> list[str]:
        """Names of an array's axes as the submission sees it; none where they are unknown."""
        spec = self._spec(name)
        if spec is None:
            return []
        return tokens(self.order.get(spec.name, spec.shape), array)

    def ranks(self, name: str) -> Any:
        """What the card ranks an output of indices by, where nothing was put in another order."""
        spec = self._spec(name)
        return spec.ranks if spec is not None and not self.order else None

    def keyword(self, flat: str) -> str:
        """The keyword of an output's flat name."""
        return _owner(self.op.results, flat)

    def named(self, value: Any, question: Question) -> dict[str, Any]:
        """Flat answers in what a submission returned: a mapping by keyword, a tuple in declared
        order (all outputs, or the required ones), or the bare value where one output is required.

        Raises Unnamed.
        """
        if value is None:
            raise Unnamed(NOTHING)
        table = self._table(value, question.required)
        missing = [k for k in question.required if table.get(k) is None]
        if missing:
            have = ", ".join(map(str, table)) or "nothing"
            raise Unnamed(f"it returned no {missing[0]!r} (it returned {have})")
        flat: dict[str, Any] = {}
        for spec in self.op.results_on(self.track):
            if spec.keyword in question.required:
                try:
                    flat |= flatten([spec], {spec.keyword: table[spec.keyword]})
                except (TypeError, AttributeError, ValueError):
                    kind = "list of arrays" if isinstance(spec, Array) else "mapping of arrays"
                    came = type(table[spec.keyword]).__name__
                    raise Unnamed(f"{spec.keyword} must be a {kind}, but is {came}") from None
        wanted = {self.keyword(k) for k in question.expected}  # a file may store only some outputs
        return {k: v for k, v in flat.items() if self.keyword(k) in wanted}

    def _table(self, value: Any, required: Sequence[str]) -> dict[str, Any]:
        everything = [a.keyword for a in self.op.results_on(self.track)]
        only = required[0] if len(required) == 1 else None
        grouped = {a.keyword for a in self.op.results if isinstance(a, Group)}
        if isinstance(value, Mapping) and not (only in grouped and only not in value):
            return dict(value)
        several = isinstance(value, tuple) or (isinstance(value, list) and only is None)
        for order in (required, everything):
            if several and len(value) == len(order):
                return dict(zip(order, value))
        if only and not isinstance(value, tuple):
            return {only: value}
        came = f"a {type(value).__name__} of {len(value)}" if several else f"one {_kind(value)}"
        raise Unnamed(
            f"it returned {came}; expected {', '.join(required)} (a mapping, or in this order)"
        )

    def _spec(self, flat: str) -> Array | None:
        for specs in (self.op.results, self.op.arguments):
            try:
                return declared(specs, flat)
            except InputError:
                continue
        return next((a for a in self.op.arguments if isinstance(a, Array) and a.name == flat), None)

    def optional_bytes(self, given: Mapping[str, Any]) -> int:
        """What the optional outputs would take, as far as their shapes are declared."""
        sizes, total = self._sizes(convert(self.op, given, "numpy")[0]), 0
        for spec in self.op.results_on(self.track):
            if isinstance(spec, Array) and spec.optional and not spec.family:
                dims = spec.shape.split(" | ")[0].split()
                known = all(names_in(d) <= set(sizes) for d in dims if d != "_")
                total += math.prod(int(evaluate(d, sizes)) for d in dims if d != "_") * 8 * known
        return total

    def _sizes(self, checked: Mapping[str, Any]) -> dict[str, int]:
        """Named dimensions of the call, for diagnoses."""
        leaves = []
        for spec in self.op.arguments:
            value = checked.get(spec.keyword)
            if isinstance(spec, Array) and not spec.family and value is not None:
                leaves.append((spec.name, spec.shape, value))
        options = {o.name: checked.get(o.name) for o in self.op.options}
        try:
            return unify(iter(leaves), {k: v for k, v in options.items() if type(v) is int})
        except InputError:
            return {}


class HelperTask:
    """A helper function of reference.py, which returns any tree of arrays."""

    track: Track = "numpy"
    vary: Mapping[str, Any] = {}

    def __init__(self, exhibit: Exhibit, part: Part):
        if part.example is None:
            raise InputError(
                f"{exhibit.name}: part {part.name!r} is no operation and has no example"
            )
        self.exhibit, self.part, self.name = exhibit, part, part.name

    def draw(
        self,
        n: int,
        seed: int,
        sizes: Mapping[str, Any] | None = None,
        varied: bool = False,
    ) -> Question:
        """A question of size n."""
        assert self.part.example is not None
        given = self.part.example(n, np.random.default_rng(seed))
        return self.question(given, f"n={n}")

    def question(self, given: Mapping[str, Any], about: str = "") -> Question:
        """The question that these arguments make."""
        return Question(dict(given), self.reference(given), dict(given), about=about)

    def reference(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Flat answers of reference.py."""
        return dict(leaves(undecorated(self.exhibit, self.name)(**copied(given))))

    def axes(self, name: str, array: Any) -> list[str]:
        return []

    def ranks(self, name: str) -> Any:
        return None

    def named(self, value: Any, question: Question) -> dict[str, Any]:
        """Flat answers; a plain tuple will do where the reference returns a named one, and lists of
        lists of numbers where it returns arrays."""
        if value is None:
            raise Unnamed(NOTHING)
        found = dict(leaves(value))
        fields = list(question.expected)
        if set(found) == set(fields) or not isinstance(value, tuple | list):
            return found
        if fields == ["result"]:
            value = [value]
        one_each = all(name.isidentifier() for name in fields) or fields == [
            f"result[{i}]" for i in range(len(fields))
        ]
        if not one_each or len(value) != len(fields):
            return found
        try:
            return {name: np.asarray(member) for name, member in zip(fields, value)}
        except (ValueError, TypeError):  # ragged
            return found


Task = OperationTask | HelperTask


def tasks(
    exhibit: Exhibit, track: Track, assignment: Assignment
) -> tuple[OperationTask, list[Task]]:
    """The headline and the parts on the way to it, as this course asks for them on a track.

    Helpers are asked for on the NumPy track alone. Raises InputError where the headline has no such
    path.
    """
    op = exhibit.headline
    if track not in op.paths or track not in TRACKS:
        have = ", ".join(t for t in TRACKS if t in op.paths)
        raise InputError(f"{exhibit.name} has no {track} track; it has {have}")
    headline = OperationTask(op, track, assignment.vary, assignment.order)
    operations = {o.name: o for o in exhibit.operations}
    parts: list[Task] = []
    for part in exhibit.exercise.parts if exhibit.exercise else ():
        if part.name in operations:
            if track in operations[part.name].paths:
                parts.append(OperationTask(operations[part.name], track, example=part.example))
        elif track == "numpy":
            parts.append(HelperTask(exhibit, part))
    return headline, parts


def pick(values: Sequence[Any], rng: np.random.Generator) -> Any:
    """One of the values."""
    return values[int(rng.integers(len(values)))]


def _owner(specs: Sequence[Array | Group], flat: str) -> str:
    """The keyword whose flat name this is."""
    for spec in specs:
        if isinstance(spec, Array) and spec.name == flat:
            return spec.keyword
    for spec in specs:
        try:
            declared([spec], flat)
        except InputError:
            continue
        return spec.keyword
    return flat


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape}"
    return "None" if value is None else type(value).__name__


def _describe(drawn: Mapping[str, Any], hidden: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in drawn.items() if k not in hidden}
    return ", ".join(f"{k}={v!r}" for k, v in shown.items() if v is not None)
