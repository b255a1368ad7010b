"""What a run leaves behind: one record a point, kept in a file of JSON lines as it goes.

{"kind": "run", "command": …, "machine": …, "rates": …}
{"kind": "gate", …}
{"kind": "point", …}
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from attnlab.bench.inputs import Target
from attnlab.bench.machine import Machine, Rates
from attnlab.bench.settings import Settings
from attnlab.paths import cache_dir


@dataclass
class Point:
    """One operation on one backend at one size: times in seconds, or the reason why there are none.

    `fixed` is the time of a call of the smallest size. `final` says that a later run would come to
    the same reason; what a time budget left out is tried again by --resume.
    """

    exhibit: str
    operation: str
    causal: bool | None
    baseline: bool
    backend: str
    n: int
    samples: list[float] = field(default_factory=list)
    inner: int = 1
    first: float | None = None
    prepare: float | None = None
    fixed: float | None = None
    peak: int | None = None
    peak_note: str = ""
    flops: float | None = None
    bytes: float | None = None
    items: int = 0
    reason: str = ""
    final: bool = True

    @property
    def target(self) -> Target:
        return Target(self.exhibit, self.operation, self.causal, self.baseline)

    @property
    def series(self) -> tuple[Target, str]:
        return self.target, self.backend

    @property
    def measured(self) -> bool:
        return bool(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def quantiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.samples, (0.2, 0.8))
        return float(low), float(high)

    @property
    def overhead(self) -> float:
        """Share of the call that a call of the smallest size costs too; 0 where that is unknown."""
        return min(1.0, self.fixed / self.median) if self.fixed and self.samples else 0.0


@dataclass
class GateRecord:
    """The reference check of one series."""

    exhibit: str
    operation: str
    causal: bool | None
    backend: str
    ok: bool
    n: int
    error: float
    tolerance: float
    first: float | None
    note: str
    line: str


@dataclass
class Results:
    """Everything of one run; what the report, the files and the plot are made from."""

    settings: Settings
    machine: Machine
    rates: Rates
    notes: list[str]
    gates: list[GateRecord] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    planned: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    started: str = ""
    estimate: float = 0.0

    def of(self, target: Target, backend: str) -> list[Point]:
        """The points of one series by size."""
        same = [p for p in self.points if p.series == (target, backend)]
        return sorted(same, key=lambda p: p.n)

    @property
    def red(self) -> list[GateRecord]:
        return [g for g in self.gates if not g.ok]


class State:
    """The file that a run is kept in. One for each command on each machine."""

    def __init__(self, settings: Settings, machine: Machine):
        identity = json.dumps(machine.as_dict(), sort_keys=True) + settings.key()
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.path = cache_dir() / "bench" / f"{name}.jsonl"

    def load(self) -> tuple[Rates | None, list[Point]]:
        """The rates and points kept by an earlier run of the same command; a cut last line is left out."""
        rates, points = None, {}
        for record in self._records():
            kind = record.pop("kind", "")
            with contextlib.suppress(TypeError):  # a record of another version
                if kind == "run":
                    rates = Rates(**record["rates"])
                elif kind == "point":
                    point = Point(**record)
                    points[point.series, point.n] = point
        return rates, list(points.values())

    def _records(self) -> Iterable[dict[str, Any]]:
        try:
            lines = self.path.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)

    def begin(self, settings: Settings, machine: Machine, rates: Rates, keep: list[Point]) -> None:
        """A fresh file that holds the points to keep."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = {
            "kind": "run",
            "command": settings.command(),
            "machine": machine.as_dict(),
            "rates": asdict(rates),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        text = "".join(json.dumps(r) + "\n" for r in (head, *map(_line, keep)))
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def add(self, point: Point) -> None:
        """Appends a point; it is on disk when this returns."""
        with self.path.open("a") as file:
            file.write(json.dumps(_line(point)) + "\n")


def _line(point: Point) -> dict[str, Any]:
    return {"kind": "point"} | asdict(point)
