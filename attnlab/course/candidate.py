"""Who is examined: a submission's session, how much of its time is spent, and how its answers are
held against the expected ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from attnlab.course.config import Limits
from attnlab.course.difference import compare
from attnlab.course.model import Difference, Status, Track
from attnlab.course.tasks import Question, Task, Unnamed
from attnlab.vectors import settle

HOPELESS = 2  # timeouts after which a call gets only
IMPATIENT = 1.0  # seconds
COMPILE = 2  # times `limits.start` that numba may compile beside the budget


class SessionLike(Protocol):
    """What is needed of `sandbox.Session` (see there)."""

    status: Status
    message: str
    defined: frozenset[str]
    starting: float

    def call(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        cotangents: Mapping[str, Any] | None = None,
        gradient: Sequence[str] = (),
        seconds: float | None = None,
    ) -> Any: ...


@dataclass(frozen=True, eq=False)
class Verdict:
    """What came of one item before anybody's level of detail: `fault` says it where there is no
    difference to show; `task`, `question` and `got` are what a diagnosis needs."""

    status: Status
    fault: str = ""
    difference: Difference | None = None
    task: Task | None = None
    question: Question | None = None
    got: Mapping[str, Any] | None = None
    reply: Any = None
    note: str = ""  # for the instructor alone

    @property
    def passed(self) -> bool:
        return self.status == "passed"


class Candidate:
    """Asks a session, and keeps account: `spent` seconds of the exercise's budget, timeouts.

    Seconds are those that the trusted process sees (a submission may change its own clock). On the
    numba track a call with new types of arguments compiles, which the session gives more time for and
    which does not count here, up to a bound; neither does what another call takes beyond the limit,
    since a branch that is new to it may compile as well.
    """

    def __init__(self, session: SessionLike, limits: Limits, track: Track):
        self.session, self.limits, self.track = session, limits, track
        self.spent = self.compiling = 0.0
        self.timeouts = 0
        self._compiled: set[Any] = set()
        self._agreed: dict[int, tuple[Question, Verdict]] = {}

    @property
    def exhausted(self) -> bool:
        return self.spent >= self.limits.budget

    def ask(
        self, function: str, arguments: Mapping[str, Any], **settings: Any
    ) -> tuple[Any, float]:
        """The reply to one call and the seconds it took. Never raises for the submission's faults."""
        kind = (function, _signature(arguments))
        compiles = self.track == "numba" and kind not in self._compiled
        patient = self.timeouts < HOPELESS
        seconds = self.limits.wall if patient else min(IMPATIENT, self.limits.wall)
        allowance = COMPILE * self.limits.start - self.compiling if self.track == "numba" else 0.0
        if patient and not compiles and allowance > 0:
            seconds += min(self.limits.start, allowance)
        started, waited = time.perf_counter(), self.session.starting
        reply = self.session.call(function, arguments, seconds=seconds, **settings)
        took = time.perf_counter() - started - (self.session.starting - waited)
        compiling = took if compiles else max(0.0, took - self.limits.wall)
        free = compiling if compiling <= allowance else 0.0
        self.compiling += compiling
        self.spent += took - free
        self._compiled.add(kind)
        self.timeouts += reply.status == "timeout"
        return reply, took

    def answer(self, task: Task, question: Question, **settings: Any) -> Verdict:
        """One call, its answers held against the expected ones."""
        reply, _ = self.ask(task.name, question.arguments, **settings)
        return judged(task, question, reply)

    def agrees(self, task: Task, question: Question) -> Verdict:
        """As `answer`, asked once a question: what several properties rest on."""
        known = self._agreed.get(id(question))
        if known is None:
            known = self._agreed[id(question)] = (question, self.answer(task, question))
        return known[1]


def judged(task: Task, question: Question, reply: Any) -> Verdict:
    """What a reply to a question is worth."""
    if reply.status != "passed":
        return failed(reply, task, question)
    try:
        got = task.named(reply.value, question)
    except Unnamed as fault:
        return Verdict("wrong", str(fault), None, task, question, None, reply)
    if task.track == "torch" and (came := _no_tensor(reply.kinds, question.expected)):
        why = f"it returned {came}; on this track tensors are asked for"
        return Verdict("wrong", why, None, task, question, None, reply)
    expected, found, rules = _settled(task, question, got)
    difference = compare(expected, found, question.rtol, question.atol, rules)
    status: Status = "wrong" if difference else "passed"
    return Verdict(status, "", difference, task, question, got, reply)


def failed(reply: Any, task: Task | None = None, question: Question | None = None) -> Verdict:
    """The verdict on a call that gave no answer."""
    where = f" ({reply.where})" if reply.where else ""
    return Verdict(reply.status, f"{reply.error}{where}", None, task, question, None, reply)


def _settled(
    task: Task, question: Question, got: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Expected and returned answers and how to compare them: ties of what a card ranks are brought
    into one order."""
    expected, found, rules = dict(question.expected), dict(got), dict(question.rules)
    for name, rule in question.rules.items():
        ranks = task.ranks(name) if rule == "ties" else None
        if ranks is None or _shape(found.get(name)) != _shape(expected.get(name)):
            continue
        try:
            free = question.atol + question.rtol
            made = np.asarray(found[name])
            found[name], expected[name] = settle(ranks, question.given, made, expected[name], free)
        except Exception:  # indices out of range, say: then they are compared as they are
            continue
        rules[name] = "exact"
    return expected, found, rules


def _shape(value: Any) -> tuple[int, ...]:
    return np.shape(value) if isinstance(value, np.ndarray) else (-1,)


def _no_tensor(kinds: Mapping[str, str], expected: Mapping[str, Any]) -> str:
    """What came instead of tensors; "" where they came, or where text is asked for."""
    if _texts(expected):
        return ""
    if "array" in kinds.values():
        return "a NumPy array"
    shaped = any(np.ndim(value) for value in expected.values())
    return "plain numbers" if shaped and "tensor" not in kinds.values() else ""


def _texts(values: Mapping[str, Any]) -> bool:
    return any(np.asarray(v).dtype.kind in "US" for v in values.values())


def _signature(value: Any) -> Any:
    """What numba compiles a function for: types, dtypes and ranks."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.ndim
    if isinstance(value, Mapping):
        return tuple(
            (k, _signature(v)) for k, v in sorted(value.items(), key=lambda kv: str(kv[0]))
        )
    if isinstance(value, list | tuple):
        return type(value).__name__, *sorted({repr(_signature(v)) for v in value})
    return type(value).__name__
