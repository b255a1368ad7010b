"""A sandbox's interface in this process, for submissions that are our own."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from attnlab.course.answer import answer
from attnlab.course.config import Course
from attnlab.course.judge import Examiner
from attnlab.course.model import Grade
from attnlab.course.sandbox import Reply
from attnlab.registry import find


class StandIn:
    """Text of NAME.py (or a function that changes its namespace) -> sessions."""

    def __init__(self, source: str, change: Callable[[dict[str, Any]], Any] = lambda space: None):
        self.source, self.change, self.status, self.message = source, change, "passed", ""
        self.seconds: list[float] = []  # that each call was given
        self.calls: list[str] = []
        self.starting = 0.0

    def load(self, module: str) -> StandIn:
        made = ModuleType("submission")
        sys.modules["submission"] = made  # dataclasses look themselves up there
        self.space = made.__dict__
        exec(compile(self.source, f"{module}.py", "exec"), self.space)
        self.change(self.space)
        self.defined = frozenset(k for k, v in self.space.items() if callable(v))
        return self

    def call(self, function: str, arguments: Mapping[str, Any], **settings: Any) -> Reply:
        self.calls.append(function)
        self.seconds.append(settings["seconds"])
        given = copy.deepcopy(dict(arguments))
        began = time.process_time()
        try:
            value = self.space[function](**given)
        except NotImplementedError as error:
            return Reply("not implemented", error=str(error))
        except TimeoutError as error:
            return Reply("timeout", error=str(error))
        except Exception as error:
            return Reply("error", error=f"{type(error).__name__}: {error}")
        took = time.process_time() - began
        if hasattr(value, "_fields"):
            value = value._asdict()
        return Reply("passed", copy.deepcopy(value), given, printed="said", outside=took)


def solved(name: str) -> str:
    """The text that solves an exercise."""
    return answer(find(name))[f"{name}.py"].decode()


def examiner(
    name: str,
    source: str | None = None,
    change: Callable[[dict[str, Any]], Any] = lambda space: None,
    course: Course | None = None,
    seed: int = 5,
    details: Any = None,
) -> Examiner:
    """An examiner of a submission, which by default is right; `change` edits its namespace."""
    box: Any = StandIn(solved(name) if source is None else source, change)
    return Examiner(box, name, course or Course(), "numpy", seed, details)


def graded(name: str, *args: Any, everything: bool = False, **settings: Any) -> Grade:
    return examiner(name, *args, **settings).grade("student", everything=everything)


def wrapped(function: str, around: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    """A change: the function becomes around(original, **arguments)."""

    def change(space: dict[str, Any]) -> None:
        original = space[function]
        space[function] = lambda **arguments: around(original, **arguments)

    return change
