"""One module of a submission, imported in a confined child, and calls of its functions."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from attnlab.course.inside import codec
from attnlab.course.model import Status
from attnlab.course.sandbox.answers import Answer, printable

if TYPE_CHECKING:
    from attnlab.course.sandbox.base import ChildLike, Sandbox

# what a child may say of a call; all else is found out from outside
SAYS = ("passed", "error", "not implemented", "missing", "bad value", "memory", "malformed")
RELOADS = 3  # imports that may fail, one after another, once the first went well
UNSEEN = 0.05  # seconds of a call that a child's own measure may leave out …
UNSEEN_BYTES = 50e6  # … and bytes a second of packing
COARSE = 0.02  # seconds by which a clock read from outside lags behind


@dataclass(frozen=True)
class Reply:
    """What a call came to.

    "passed" says that something readable came back in `value`: a tree of mappings, lists, tuples,
    NumPy arrays and scalars, text and None; `kinds` has "array", "tensor" or "scalar" by the path
    of each leaf ("out", "x.0", "" for a bare array) and `views` the paths of arrays that share
    memory with an argument. `inputs` are the arguments after the call. `gradients` (torch track)
    have the structure of the arguments named. `error` is one line, `where` the submission's line.
    `seconds` is wall-clock time and `cpu` CPU time of the call, packing left out; a child's own
    word for them is taken only where the trusted side's clocks bear it out. `outside` is the CPU
    time by the trusted side's clock alone, packing and all.
    """

    status: Status
    value: Any = None
    inputs: Any = None
    gradients: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    where: str = ""
    printed: str = ""
    seconds: float = 0.0
    cpu: float = 0.0
    outside: float = 0.0
    kinds: Mapping[str, str] = field(default_factory=dict)
    views: frozenset[str] = frozenset()


class Session:
    """Made by `Sandbox.load`. `status` is "passed" where the file was imported, else what went
    wrong ("malformed": no such file, no Python, an exception), with `message` and `where`.
    `starting` is what its processes took until they could be asked, in seconds: nobody's fault."""

    def __init__(self, sandbox: Sandbox, module: str):
        self.sandbox, self.module = sandbox, module
        self.status: Status = "malformed"
        self.message = self.where = self.printed = ""
        self.defined: frozenset[str] = frozenset()
        self._child: ChildLike | None = None
        self.starting = 0.0
        self._failed = 0
        self._compiled: set[Any] = set()

    def open(self) -> None:
        """Import the module, once."""
        if f"{self.module}.py" not in self.sandbox.files:
            self.message = f"there is no file {self.module}.py"
            return
        reply = self._load()
        self.status, self.message, self.where = reply.status, reply.error, reply.where
        self.printed = reply.printed
        if reply.status == "passed":
            self.defined = frozenset(reply.value)

    def call(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        cotangents: Mapping[str, Any] | None = None,
        gradient: Sequence[str] = (),
        seconds: float | None = None,
    ) -> Reply:
        """Call a function with keyword arguments, at most `seconds` long (the limit by default).

        gradient names arguments (arrays, or lists and mappings of arrays) with respect to which
        sum(output * cotangent) is differentiated; cotangents go by output keyword in declared
        order, None for outputs that have none. A child that was lost is made anew first.
        """
        if self.status != "passed":
            return Reply(self.status, error=self.message, where=self.where)
        if self._child is None or not self._child.usable:
            self.close()
            again = self._load()
            if again.status != "passed":
                return again
        limits = self.sandbox.limits
        wall = seconds or limits.wall
        cpu = limits.cpu + max(0.0, wall - limits.wall)
        if self.sandbox.track == "numba" and self._compiles(function, arguments):
            wall, cpu = wall + limits.start, cpu + limits.start
        arrays: list[np.ndarray] = []
        request = {
            "do": "call",
            "function": function,
            "arguments": codec.encode(dict(arguments), arrays),
            "gradient": list(gradient),
        }
        sent = len(arrays)
        request["cotangents"] = codec.encode(dict(cotangents or {}), arrays)
        assert self._child is not None
        answer = self._child.exchange(request, arrays, wall, cpu)
        return self._reply(answer, request["arguments"], arrays[:sent])

    @property
    def alive(self) -> bool:
        """Whether a child of it runs."""
        return self._child is not None and self._child.alive

    def close(self) -> None:
        """End the child. The session can be called again: it starts anew."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def abandon(self) -> None:
        """The sandbox ends, and the child with it."""
        if self._child is not None and self._child.alive:
            self._child.drop()
        self._child = None

    def _load(self) -> Reply:
        if self._failed >= RELOADS:
            return Reply("crashed", error="importing the file fails again and again")
        began = time.perf_counter()
        self._child = self.sandbox.child()
        self.starting += time.perf_counter() - began
        self._compiled.clear()
        start = self.sandbox.limits.start
        answer = self._child.exchange({"do": "load", "module": self.module}, (), start, start)
        reply = self._reply(answer, None, [])
        self._failed = 0 if reply.status == "passed" else self._failed + 1
        if reply.status != "passed":
            self.close()
        return reply

    def _reply(self, answer: Answer, arguments: Any, sent: list[np.ndarray]) -> Reply:
        if answer.status:
            status: Any = answer.status
            return Reply(
                status,
                error=answer.error,
                printed=answer.printed,
                seconds=answer.wall,
                cpu=answer.cpu,
                outside=answer.cpu,
            )
        header = answer.header
        said: dict[str, Any] = {
            "error": _text(header.get("error"), 2000),
            "where": _text(header.get("where"), 300),
            "printed": answer.printed,
            "seconds": _believed(header.get("seconds"), answer.wall, answer.arrays),
            "cpu": _believed(header.get("cpu"), answer.cpu, answer.arrays),
            "outside": answer.cpu,
        }
        try:
            status = header.get("status")
            if status not in SAYS or status not in get_args(Status):
                raise codec.Malformed("an unknown status")
            if status != "passed":
                return Reply(status, **said)
            if arguments is None:
                names = header.get("defined")
                if type(names) is not list or any(type(n) is not str for n in names):
                    raise codec.Malformed("no list of names")
                return Reply(status, value=[_text(n, 200) for n in names], **said)
            kinds: dict[str, str] = {}
            places: dict[int, str] = {}
            value = codec.decode(header.get("value"), answer.arrays, kinds, places=places)
            changed = dict(_pairs(header.get("changed"), len(sent), len(answer.arrays)))
            after = [answer.arrays[changed[i]] if i in changed else a for i, a in enumerate(sent)]
            made = codec.decode(header.get("gradients", ["d", []]), answer.arrays)
            if type(made) is not dict:
                raise codec.Malformed("gradients that are no mapping")
            views = header.get("views")
            if type(views) is not list or any(type(i) is not int for i in views):
                raise codec.Malformed("no list of views")
            return Reply(
                status,
                value=value,
                inputs=codec.decode(arguments, after),
                gradients=made,
                kinds=kinds,
                views=frozenset(places[i] for i in views if i in places),
                **said,
            )
        except codec.Malformed as error:
            return Reply("bad value", **(said | {"error": f"returned {error}", "where": ""}))

    def _compiles(self, function: str, arguments: Mapping[str, Any]) -> bool:
        """Whether Numba meets these types for the first time in this child."""
        arrays: list[np.ndarray] = []
        codec.encode(dict(arguments), arrays)
        key = (function, tuple((a.dtype.str, a.ndim) for a in arrays))
        new = key not in self._compiled
        self._compiled.add(key)
        return new


def _text(value: Any, limit: int) -> str:
    return printable(value[:limit]) if isinstance(value, str) else ""


def _believed(said: Any, measured: float, arrays: Sequence[np.ndarray]) -> float:
    """A child's own measure of a call where the one from outside agrees, but for packing."""
    spare = UNSEEN + sum(a.nbytes for a in arrays) / UNSEEN_BYTES
    honest = type(said) is float and math.isfinite(said)
    return said if honest and measured - spare <= said <= measured + COARSE else measured


def _pairs(value: Any, first: int, second: int) -> list[tuple[int, int]]:
    if type(value) is not list:
        raise codec.Malformed("no list of changed arguments")
    pairs = []
    for pair in value:
        if type(pair) is not list or len(pair) != 2 or any(type(i) is not int for i in pair):
            raise codec.Malformed("no list of changed arguments")
        if not (0 <= pair[0] < first and 0 <= pair[1] < second):
            raise codec.Malformed("a changed argument that was not sent")
        pairs.append((pair[0], pair[1]))
    return pairs
