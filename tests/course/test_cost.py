"""Growth of time: what is told apart, and what cannot be hidden."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from stand_in import Reply, examiner, graded, wrapped

from attnlab.contract import Exercise
from attnlab.course import cost
from attnlab.course.candidate import Candidate
from attnlab.course.config import Assignment, Limits
from attnlab.course.cost import Ladder, growth, judge
from attnlab.course.tasks import tasks
from attnlab.registry import find, names

TASK, _ = tasks(find("lightning"), "numpy", Assignment("lightning"))
SIZES = (16, 32, 64, 128, 256, 512, 1024)


class Timed:
    """A session that answers rightly and takes what `law(n, call)` says."""

    status, message, defined, starting = "passed", "", frozenset({"attend"}), 0.0

    def __init__(self, law: Any, limit: float = 5.0):
        self.law, self.limit, self.sizes = law, limit, []

    def call(self, function: str, arguments: Any, **settings: Any) -> Reply:
        n = arguments["q"].shape[2]
        self.sizes.append(n)
        took = self.law(n, len(self.sizes))
        if took > self.limit:
            return Reply("timeout", error="took too long")
        return Reply("passed", find("lightning").run("attend", **arguments)._asdict(), outside=took)


def plan(claim: float = 1.0) -> Ladder:
    seconds = {n: 1e-3 + 1e-5 * n for n in SIZES}
    return Ladder(TASK, claim, 1, seconds, 1e-3)


def verdict(law: Any, claim: float = 1.0, limit: float = 5.0) -> Any:
    return judge(Candidate(Timed(law, limit), Limits(budget=1e6), "numpy"), plan(claim))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("law", "status"),
    [
        (lambda n, i: 1e-3 + 1e-5 * n, "passed"),
        (lambda n, i: 2e-3 + 1e-4 * n * np.log2(n) / 10, "passed"),
        (lambda n, i: 1e-3, "passed"),  # too quick to tell
        (lambda n, i: 1e-3 + 1e-7 * n**2, "wrong"),
        (lambda n, i: 1e-3 + 1e-5 * n**2, "wrong"),
        (lambda n, i: 1e-3 + 1e-9 * n**3, "wrong"),
    ],
)
def test_growth(law: Any, status: str) -> None:
    made = verdict(law)
    assert made.status == status
    assert ("the time grows too fast" in made.fault) == (status == "wrong")


def test_nothing_hides_behind_an_idle_loop() -> None:
    assert "smallest call takes 300.0 ms" in verdict(lambda n, i: 0.3 + 1e-6 * n**2).fault
    assert verdict(lambda n, i: 0.09 + 1e-6 * n**2).status == "wrong"
    assert verdict(lambda n, i: 0.085 + 8e-8 * n**2).status == "wrong"  # less than doubles
    assert verdict(lambda n, i: 0.015 + 1e-5 * n).passed  # a slow machine, a torch layer
    at_tiny_sizes = verdict(lambda n, i: (0.09 if n < 16 else 1e-3) + 1e-6 * n**2)
    assert at_tiny_sizes.status == "wrong"


def test_a_quadratic_claim_takes_quadratic_time_and_no_cubic() -> None:
    assert verdict(lambda n, i: 1e-3 + 1e-7 * n**2, 2.0).passed
    assert not verdict(lambda n, i: 1e-3 + 1e-9 * n**3, 2.0).passed


def test_noise_gets_a_second_look() -> None:
    def noisy(n: int, call: int) -> float:
        return 1e-3 + 1e-5 * n + (0.03 if n == 1024 and call < 25 else 0)

    assert verdict(noisy).passed


def test_what_is_as_quick_as_the_reference_grows_slowly_enough() -> None:
    assert verdict(lambda n, i: 1e-4 + 1e-8 * n**2).passed  # 10.6 ms of 11.2 at the largest size
    assert not verdict(lambda n, i: 1e-4 + 2e-8 * n**2).passed


def test_a_slow_machine_is_no_growth() -> None:
    """Times with a spread of a third, ten times over."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert verdict(lambda n, i, r=rng: (1e-3 + 1e-5 * n) * (1 + r.random() / 3)).passed


def test_over_the_limit() -> None:
    quadratic = verdict(lambda n, i: 1e-4 * n**2, limit=1.0)
    assert quadratic.status == "wrong"
    stuck = verdict(lambda n, i: 9.0 if n > 100 else 1e-3, limit=1.0)
    assert stuck.status == "timeout"


def test_a_wrong_answer_has_no_cost() -> None:
    session = Timed(lambda n, i: 1e-3)
    right = session.call

    def wrong_when_large(function: str, arguments: Any, **settings: Any) -> Reply:
        reply = right(function, arguments, **settings)
        reply.value["o"] = reply.value["o"] + (arguments["q"].shape[2] > 100)
        return reply

    session.call = wrong_when_large  # type: ignore[method-assign]
    made = judge(Candidate(session, Limits(), "numpy"), plan())  # type: ignore[arg-type]
    assert made.status == "not run"
    assert "n=128" in made.fault


def test_every_call_has_inputs_of_its_own() -> None:
    ladder, seen = plan(), set()
    for repeat in range(12):
        seen.add(ladder.question(32, repeat).arguments["q"].tobytes())
    assert len(seen) == 12
    assert ladder.question(32, 0) is ladder.question(32, 0)


def test_growth_is_none_where_all_is_overhead() -> None:
    assert growth({16: 1.0, 32: 1.1, 64: 1.2}, 1.0) is None
    assert growth({16: 2.0, 32: 3.0, 64: 5.0, 128: 9.0}, 1.0) == pytest.approx(1.0)


def test_what_is_asked_of_whom() -> None:
    exercise = Exercise(1, 1, ("",) * 3)
    assert cost.claim(TASK, exercise) == 1.0
    assert cost.claim(TASK, Exercise(1, 1, ("",) * 3, exponent=2.0)) == 2.0
    assert cost.claim(TASK, Exercise(1, 1, ("",) * 3, no_cost="too small")) is None
    for name in names():
        exhibit = find(name)
        task, _ = tasks(exhibit, "numpy", Assignment(name))
        items = examiner(name).items
        assert any(i.kind == "cost" for i in items) == (
            cost.claim(task, exhibit.exercise) is not None
        )


def quadratic(f: Any, **a: Any) -> Any:
    n, until = a["q"].shape[2], time.process_time()
    until += 3e-7 * n**2
    made = f(**a)
    while time.process_time() < until:
        pass
    return made


def test_a_quadratic_answer_to_a_linear_exercise_loses_cost_alone() -> None:
    assert graded("lightning").score == 100
    grade = graded("lightning", change=wrapped("attend", quadratic))
    (lost,) = [o for o in grade.outcomes if not o.passed]
    assert lost.item.kind == "cost"
    assert lost.status == "wrong"
    assert "n^1 is asked for" in lost.message
