"""How a submission's time grows: the fitted exponent against the card's.

Sizes double as long as the reference takes a few hundredths of a second and arrays stay small; the
submission is timed on the same inputs, from the smallest size on, until its growth is plain. What
counts is the CPU time of its process by the trusted side's clock: a submission may patch its own
clock, but not this one, and a busy machine disturbs it little. It includes the transfer of the
arrays, which is linear, so nothing below linear growth is told apart. What a call takes however
small it is comes off before the fit, and may not be much (`IDLE` below): growth could hide behind it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from attnlab.bench.fit import exponent as fit
from attnlab.contract import Exercise, InputError
from attnlab.course.candidate import Candidate, Verdict, failed, judged
from attnlab.course.tasks import OperationTask, Question, seed_of
from attnlab.course.trees import arrays

MARGIN = 0.4  # what a fitted exponent may exceed the claim by
START, TINY = 16, 2
LARGEST_START = 256  # where an exponent that holds only from some size on may begin
REFERENCE = 0.025  # seconds a call, where sizes end …
LONG, SLOW = 0.25, 0.05  # … in any case, and where drawing inputs is slow
INPUTS, OUTPUTS = 2 << 20, 8 << 20  # bytes, likewise; optional outputs may be returned, too
PLAIN = 0.15  # seconds a call that show growth well enough
VISIBLE = 1.2  # times the least time, below which a call is mostly overhead …
GROWN = 2.0  # … and from which on growth shows at all
HIDDEN = 4.0  # times the least time, from which on nothing hides behind an idle loop
IDLE, IDLER = 0.025, 20.0  # seconds that the smallest call may take, or times the reference's
# CPU time, but for Windows, where that moves in steps of 16 ms
clock = time.perf_counter if sys.platform == "win32" else time.process_time
TICK = 1e-6  # seconds, the least that is told
FAINT, ROUGHLY = 0.02, 0.3  # seconds below which a fit is rough, and what it may exceed more
POINTS, LEAST = 4, 3  # sizes that a fit wants, and can do with
REPEATS, MORE = 3, 7


@dataclass(frozen=True, eq=False)
class Ladder:
    """The sizes of one exercise, with the reference's seconds; questions are fresh for each call."""

    task: OperationTask
    claim: float
    seed: int
    seconds: dict[int, float]  # of the reference, by size
    floor: float | None  # its seconds at the tiny size; None where there are no such inputs
    sizes: Mapping[str, Any] = field(default_factory=dict)  # those of the other dimensions
    _drawn: dict[tuple[int, int], Question] = field(default_factory=dict)

    def question(self, n: int, repeat: int) -> Question:
        """The inputs of one call; the first few are kept, since a class is asked the same."""
        key = (n, repeat)
        if key in self._drawn:
            return self._drawn[key]
        question = self.task.draw(
            n, seed_of(self.seed, "cost", n, repeat), self.sizes, telling=False
        )
        if repeat < REPEATS:
            self._drawn[key] = question
        return question

    @cached_property
    def allowed(self) -> float:
        """The largest exponent that passes: the claim, or what the reference shows itself."""
        return max(self.claim, 1.0, growth(self.seconds, self.floor) or 0.0) + MARGIN


def claim(task: OperationTask, exercise: Exercise | None) -> float | None:
    """The exponent that is asked for; None where none is, or only for sizes beyond a classroom's."""
    if exercise is None or exercise.no_cost:
        return None
    if exercise.exponent is not None:
        return exercise.exponent
    cost = task.op.cost
    return cost.exponent if cost and cost.holds_from <= LARGEST_START else None


def ladder(
    task: OperationTask, exponent: float, seed: int, sizes: Mapping[str, Any] | None = None
) -> Ladder:
    """The sizes at which an exercise's cost is judged, and the reference's seconds there.

    Raises InputError where there are too few.
    """
    try:
        floor = _timed(task, TINY, seed, sizes or {})[0]
    except InputError:
        floor = None
    seconds: dict[int, float] = {}
    n = START
    while True:
        took, draw, inputs, outputs = _timed(task, n, seed, sizes or {})
        if len(seconds) >= LEAST and (inputs > INPUTS or outputs > OUTPUTS):
            break
        seconds[n] = took
        enough = len(seconds) >= POINTS
        if took > (REFERENCE if enough else LONG) or (enough and draw > SLOW):
            break
        n *= 2
    if len(seconds) < LEAST:
        raise InputError(
            f"{task.op.exhibit.name}: the reference is too slow, or its arrays too large, for cost "
            "to be judged; say so in the exercise's no_cost"
        )
    return Ladder(task, exponent, seed, seconds, floor, sizes or {})


def _timed(
    task: OperationTask, n: int, seed: int, dims: Mapping[str, Any]
) -> tuple[float, float, int, int]:
    """The least of the reference's seconds at size n, those of drawing inputs, and the bytes of
    inputs and outputs, optional ones among them."""
    best, draw, inputs, outputs = float("inf"), float("inf"), 0, 0
    for repeat in range(2):
        begun = clock()
        given = task.sample(n, seed_of(seed, "cost", n, repeat), dims)
        drawn, started = clock() - begun, clock()
        made = task.op.exhibit.run(task.name, backend="numpy", **given)
        best, draw = min(best, clock() - started), min(draw, drawn)
        inputs, outputs = (sum(a.nbytes for a in arrays(x)) for x in (given, made._asdict()))
    return best, draw, inputs, outputs + task.optional_bytes(given)


def growth(seconds: Mapping[int, float], floor: float | None) -> float | None:
    """The fitted exponent over the last sizes, overhead off; None where overhead is all there is."""
    least = min(seconds.values()) if floor is None else min(floor, *seconds.values())
    if max(seconds.values()) <= GROWN * least:
        return None
    points = {n: s - least for n, s in sorted(seconds.items()) if s > VISIBLE * least}
    last = list(points)[-POINTS:]
    return float(fit(last, [points[n] for n in last]).slope) if len(last) >= LEAST else None


def judge(candidate: Candidate, plan: Ladder) -> Verdict:
    """Whether the submission's time grows as it may; what it answers is compared at every size."""
    for repeats in (REPEATS, MORE):  # a noisy machine gets a second look
        measured = measure(candidate, plan, repeats, offset=0 if repeats == REPEATS else REPEATS)
        if isinstance(measured, Verdict):
            return measured
        seconds, floor = measured
        largest = max(plan.seconds)
        if seconds.get(largest, math.inf) <= plan.seconds[largest]:
            return Verdict("passed")  # nothing that grows too fast is as quick there
        found = growth(seconds, floor)
        faint = max(seconds.values()) < FAINT
        if found is None or found <= plan.allowed + (ROUGHLY if faint else 0.0):
            return Verdict("passed")
    assert found is not None
    return Verdict("wrong", slow(plan, found, seconds))


def measure(
    candidate: Candidate, plan: Ladder, repeats: int, offset: int
) -> tuple[dict[int, float], float | None] | Verdict:
    """Size -> least seconds and the seconds of a tiny call; a Verdict where an answer is wrong."""
    task = plan.task
    seconds: dict[int, float] = {}
    floor: float | None = None

    def once(n: int, repeat: int) -> float | Verdict:
        question = plan.question(n, repeat + offset)
        reply, _ = candidate.ask(task.name, question.arguments)
        verdict = judged(task, question, reply)
        if verdict.passed:
            return max(float(reply.outside), TICK)
        if verdict.status == "wrong":
            return Verdict("not run", f"the answer at n={n} is wrong, so its cost does not count")
        return failed(reply, task)

    for repeat in range(REPEATS if plan.floor is not None else 0):
        took = once(TINY, repeat)
        if isinstance(took, Verdict):
            return took
        floor = took if floor is None else min(floor, took)
    if floor is not None and floor > max(IDLE, IDLER * (plan.floor or 0.0)):
        fault = f"even the smallest call takes {_ms(floor)}: behind that no growth can be judged"
        return Verdict("wrong", fault)
    for n in sorted(plan.seconds):
        took = once(n, 0)
        if isinstance(took, Verdict):
            return _beyond(took, seconds, floor, plan, n)
        seconds[n] = took
        least = min(took if floor is None else floor, *seconds.values())
        if len(seconds) >= POINTS and took > PLAIN and took > HIDDEN * least:
            break
    for n in list(seconds)[-POINTS:]:
        for repeat in range(1, repeats):
            took = once(n, repeat)
            if isinstance(took, Verdict):
                return _beyond(took, seconds, floor, plan, n)
            seconds[n] = min(seconds[n], took)
    return seconds, floor


def _beyond(
    verdict: Verdict, seconds: dict[int, float], floor: float | None, plan: Ladder, n: int
) -> Verdict:
    """A call over a limit: growth is the fault where smaller sizes show it already."""
    if verdict.status in ("timeout", "memory") and len(seconds) >= LEAST:
        found = growth(seconds, floor)
        if found is not None and found > plan.allowed:
            return Verdict("wrong", f"{slow(plan, found, seconds)}; n={n} went over the limit")
    return verdict


def slow(plan: Ladder, found: float, seconds: dict[int, float]) -> str:
    """The verdict in words."""
    (a, x), (b, y) = list(seconds.items())[-2:]
    return (
        f"the time grows too fast: about n^{found:.1f} ({_ms(x)} at n={a}, {_ms(y)} at n={b}), where "
        f"n^{plan.claim:g} is asked for (up to n^{plan.allowed:.1f} passes)"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
