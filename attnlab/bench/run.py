"""The loop: gate, then size after size, every series of a size interleaved, within the budget."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from attnlab.bench import fit, inputs
from attnlab.bench import plan as planning
from attnlab.bench.gate import Gate, Reference
from attnlab.bench.inputs import Target
from attnlab.bench.machine import Machine, available_memory, measure_rates
from attnlab.bench.memory import Peak, Request, Template
from attnlab.bench.plan import CALL_SHARE, Plan, longest_call
from attnlab.bench.records import GateRecord, Point, Results, State
from attnlab.bench.settings import Settings
from attnlab.bench.timing import Timed, calibrate, interleave, no_collection, once
from attnlab.contract import BackendUnavailable

GATE_LARGEST = 512  # the reference must be affordable where only long sizes were asked for
POINT_SHARE = 25  # and the samples of one point this part
MEMORY_SHARE = 0.4  # of the budget may go into processes that measure memory
RATES_SECONDS = 0.05  # after each size the machine's rates are measured again
USABLE = 0.7  # of the memory that is available
KEEP_FROM = 3  # samples: fewer are not kept when the run is interrupted
FIXED_SECONDS = 0.05  # spent on timing a call of the smallest size


class Progress(Protocol):
    """Who is told how far the run is."""

    def step(self, text: str, done: int) -> None: ...


@dataclass
class Active:
    """A point that is being measured."""

    point: Point
    call: Callable[[], Any]
    timed: Timed
    held: int  # bytes of its inputs
    spent: float = 0.0


class Runner:
    """One run. `run()` returns when everything is measured or has a reason; a KeyboardInterrupt ends it
    early and is noted in the results."""

    def __init__(
        self, settings: Settings, plan: Plan, results: Results, state: State, progress: Progress
    ):
        self.settings, self.plan, self.results = settings, plan, results
        self.state, self.progress = state, progress
        self.device = plan.device
        # baselines first: without them nothing else can be judged when the budget ends early
        self.order = sorted(plan.targets, key=lambda target: not target.baseline)
        self.done = {(p.series, p.n) for p in results.points}
        self.fixed: dict[tuple[Target, str], float | None] = {}
        self.memory_seconds = 0.0
        self.active: list[Active] = []
        self.begun = time.perf_counter()

    # --- the parts of a run ------------------------------------------------------------------

    def run(self) -> Results:
        results = self.results
        results.planned = len(self.plan.series) * len(self.settings.ns)
        try:
            with Template(list(self.plan.backends)) as template:
                passed = self._gates()
                for n in sorted(self.settings.ns):
                    self._size(n, passed, template)
                    if self._left() > 1:
                        again = measure_rates(self.settings.threads, RATES_SECONDS, self.device)
                        results.rates = results.rates.best(again)
        except KeyboardInterrupt:
            results.interrupted = True
            self._keep(KEEP_FROM)
        results.seconds = time.perf_counter() - self.begun
        return results

    def _left(self) -> float:
        return self.settings.budget - (time.perf_counter() - self.begun)

    def _sizes(self, target: Target) -> dict[str, Any]:
        return inputs.sizes_of(target, self.settings.sizes_set)

    def _gates(self) -> list[tuple[Target, str]]:
        """The series that agree with the reference."""
        s, passed = self.settings, []
        n = min(min(s.ns), GATE_LARGEST)
        for target in self.order:
            backends = [b for t, b in self.plan.series if t == target]
            if all((self._key(target, b, n)) in self.done for b in backends for n in s.ns):
                passed += [(target, b) for b in backends]
                continue
            if self.results.gates and self._left() < self.settings.budget / 2:
                for backend, size in ((b, n) for b in backends for n in s.ns):
                    self._late(target, backend, size)
                continue
            self.progress.step(f"checking {target.title}", len(self.done))
            try:
                reference = Reference(target, n, s.dtype, s.seed, self._sizes(target))
            except Exception as error:
                words = " ".join(f"{type(error).__name__}: {error}".split())
                gates = {
                    b: Gate(False, n, float("inf"), 0.0, None, f"the reference: {words}")
                    for b in backends
                }
            else:
                gates = {b: self._check(reference, b) for b in backends}
            for backend, gate in gates.items():
                self.results.gates.append(
                    GateRecord(
                        target.exhibit,
                        target.operation,
                        target.causal,
                        backend,
                        gate.ok,
                        gate.n,
                        gate.error,
                        gate.tolerance,
                        gate.first,
                        gate.note,
                        gate.line(),
                    )
                )
                if gate.ok:
                    passed.append((target, backend))
                else:
                    for size in s.ns:
                        if self._key(target, backend, size) not in self.done:
                            self._save(self._red(target, backend, size))
        return passed

    @staticmethod
    def _check(reference: Reference, backend: str) -> Gate:
        try:
            return reference.check(backend)
        except BackendUnavailable as reason:
            return Gate(False, reference.n, float("inf"), 0.0, None, str(reason))

    def _size(self, n: int, passed: list[tuple[Target, str]], template: Template) -> None:
        """All series of one size, in groups whose inputs fit in memory together."""
        room = USABLE * available_memory() / 3
        for target in self.order:
            for backend in (b for t, b in passed if t == target):
                if self._key(target, backend, n) in self.done:
                    continue
                self._prepare(target, backend, n, template)
                if self._held() > room:
                    self._time()
        self._time()

    def _held(self) -> float:
        return sum(a.held + (a.point.peak or 0) for a in self.active)

    def _prepare(self, target: Target, backend: str, n: int, template: Template) -> None:
        """Measures memory, then sets up the call and makes its first; or saves the reason not to."""
        s = self.settings
        self.progress.step(
            f"{target.title} · {backend} · n = {n}", len(self.done) + len(self.active)
        )
        point = self._point(target, backend, n)
        if (why := self._refusal(target, backend, n)) is not None:
            point.reason, point.final = why
            return self._save(point)
        if s.memory:
            peak = self._peak(target, backend, n, template)
            point.peak, point.peak_note = peak.bytes, peak.reason
            if peak.reason.startswith(("needs more than", "drawing the inputs")):
                point.reason, point.final = peak.reason, "needs" in peak.reason
                return self._save(point)
        try:
            self._set_up(point, target, backend, n)
        except MemoryError:
            point.reason = "out of memory"
            self._save(point)
        except Exception as error:  # a size that the operation refuses, say: a row, not the end
            point.reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._save(point)

    def _set_up(self, point: Point, target: Target, backend: str, n: int) -> None:
        s, sizes = self.settings, self._sizes(target)
        prepared, point.prepare = inputs.prepare(target, backend, n, s.dtype, s.seed, sizes)
        # an operation's paths share one drawing
        same = [a for a in self.active if a.point.target == target and a.point.n == n]
        drawn = getattr(same[0].call, "drawn", None) if same else None
        if drawn is None:
            drawn = inputs.draw(target, n, s.dtype, s.seed, sizes)
        kwargs = prepared | drawn
        cost = inputs.cost(target, n, kwargs, s.dtype)
        point.flops, point.bytes, point.items = cost.flops, cost.bytes, cost.items
        placed = inputs.place(target.op, backend, kwargs, self.device)
        call = _Call(inputs.caller(target, backend, placed, self.device), drawn)
        with no_collection():
            first, _ = once(call)
        gate = next((g for g in self.results.gates if self._same(g, point)), None)
        point.first = gate.first if gate is not None and gate.n == n and gate.first else first
        point.fixed = self._fixed_cost(target, backend)
        second = once(call)[0] if first < self.settings.budget / CALL_SHARE / 4 else first
        timed = Timed(point.first, calibrate(call, second))
        if second is first and n != min(s.ns):
            timed.samples.append(first)  # a long call that compiled nothing is a sample already
        self.active.append(Active(point, call, timed, inputs.held(target.op, kwargs)))

    def _time(self) -> None:
        """Interleaved rounds over what is set up; every point is saved when the rounds are over."""
        if not self.active:
            return
        s = self.settings
        # half of what is left may go into this group: larger sizes come after it
        share = min(s.budget / POINT_SHARE, max(self._left(), 0.0) / 2 / len(self.active))

        def spent(index: int, seconds: float) -> bool:
            item = short[index]
            item.spent += seconds
            return item.spent > share or (self._left() < 0 and len(item.timed.samples) >= KEEP_FROM)

        # what took longer than its share already was its own sample
        short = [a for a in self.active if not a.timed.samples or a.timed.samples[0] < share]
        interleave([(a.call, a.timed) for a in short], s.repeat, s.seed, spent)
        self._keep(1)

    def _keep(self, least: int) -> None:
        for item in self.active:
            if len(item.timed.samples) >= least:
                item.point.samples, item.point.inner = item.timed.samples, item.timed.inner
                self._save(item.point)
        self.active = []
        gc.collect()

    # --- what is left out, and why -----------------------------------------------------------

    def _refusal(self, target: Target, backend: str, n: int) -> tuple[str, bool] | None:
        """(reason, whether a larger budget would not help) for a point that is not tried."""
        s = self.settings
        if self._left() < 0:
            return f"the time budget of {s.budget:g} s was used up", False
        need = self._expected_bytes(target, backend, n)
        usable = USABLE * available_memory()
        if need > usable:
            return (
                f"would need about {need / 2**30:.1f} GiB; {usable / 2**30:.1f} GiB can be used",
                True,
            )
        call, limit = self._expected_seconds(target, backend, n), longest_call(s, backend)
        if call > limit:
            held = backend == "numpy" and limit < s.budget / CALL_SHARE
            hint = "--backend numpy insists" if held else f"{CALL_SHARE} calls fill the budget"
            return f"a call would take about {call:.2g} s, over {limit:.2g} s ({hint})", held
        if 3 * call > self._left():
            return (
                f"three calls of about {call:.2g} s exceed what is left of the time budget",
                False,
            )
        return None

    def _expected_seconds(self, target: Target, backend: str, n: int) -> float:
        """From the sizes measured so far; from the card's formulas before that."""
        seen = [p for p in self.results.of(target, backend) if p.measured and p.n < n]
        if not seen:
            return planning.expected_call(target, backend, n, self.settings, self.results.rates)
        last, claim = seen[-1], target.op.cost.exponent if target.op.cost else 2.0
        if len(seen) > 1:
            local = fit.exponent([p.n for p in seen[-2:]], [p.median for p in seen[-2:]]).slope
            claim = max(claim, min(local, 3.0))
        fixed = min(last.fixed or 0.0, last.median)
        return fixed + (last.median - fixed) * (n / last.n) ** claim

    def _expected_bytes(self, target: Target, backend: str, n: int) -> float:
        """Peak memory extrapolated from smaller sizes; a quadratic guess for the plain reference
        before that."""
        seen = [p for p in self.results.of(target, backend) if p.peak and p.n < n]
        if len(seen) > 1:
            local = fit.exponent([p.n for p in seen[-2:]], [p.peak or 1 for p in seen[-2:]]).slope
            return (seen[-1].peak or 0) * (n / seen[-1].n) ** min(max(local, 1.0), 3.0)
        if len(seen) == 1:
            return (seen[0].peak or 0) * (n / seen[0].n) ** (2.0 if backend != "numba" else 1.0)
        itemsize = 8 if self.settings.dtype == "float64" else 4
        sizes = self._sizes(target)
        rows = sizes.get("batch", 1) * sizes.get("heads", 1)
        per_row = 3 * n if backend == "numpy" else sizes.get("dim", 64)
        return float(itemsize * rows * n * per_row)

    # --- measurements beside the time --------------------------------------------------------

    def _peak(self, target: Target, backend: str, n: int, template: Template) -> Peak:
        s = self.settings
        if self.device or backend == "cuda":
            return Peak(None, "not measured on a device")
        if self.memory_seconds > MEMORY_SHARE * s.budget:
            return Peak(
                None, f"not measured: {MEMORY_SHARE:.0%} of the budget had gone into memory"
            )
        begun = time.perf_counter()
        request = Request(
            target.exhibit, target.operation, target.causal, backend, n, min(s.ns), s.dtype, s.seed,
            s.threads, self._sizes(target), int(USABLE * available_memory()),
            seconds=max(5.0, min(self._left(), 20 + 3 * s.budget / CALL_SHARE)),
        )  # fmt: skip
        peak = template.measure(request)
        self.memory_seconds += time.perf_counter() - begun
        return peak

    def _fixed_cost(self, target: Target, backend: str) -> float | None:
        """Seconds of a call of the smallest size, once a series: what no size can save."""
        if (target, backend) not in self.fixed:
            s, sizes = self.settings, self._sizes(target)

            def draw_at(n: int) -> dict[str, Any]:
                made, _ = inputs.prepare(target, backend, n, s.dtype, s.seed, sizes)
                return made | inputs.draw(target, n, s.dtype, s.seed, sizes)

            try:
                kwargs = inputs.fixed_cost_inputs(target, draw_at)
                kwargs = inputs.place(target.op, backend, kwargs, self.device)
                call = inputs.caller(target, backend, kwargs, self.device)
                call()
                self.fixed[target, backend] = _least(call)
            except Exception:
                self.fixed[target, backend] = None  # no size is small enough: nothing is left out
        return self.fixed[target, backend]

    # --- records -----------------------------------------------------------------------------

    @staticmethod
    def _key(target: Target, backend: str, n: int) -> tuple[tuple[Target, str], int]:
        return (target, backend), n

    @staticmethod
    def _same(gate: GateRecord, point: Point) -> bool:
        return (gate.exhibit, gate.operation, gate.causal, gate.backend) == (
            point.exhibit, point.operation, point.causal, point.backend,
        )  # fmt: skip

    @staticmethod
    def _point(target: Target, backend: str, n: int, reason: str = "") -> Point:
        return Point(
            target.exhibit,
            target.operation,
            target.causal,
            target.baseline,
            backend,
            n,
            reason=reason,
        )

    def _late(self, target: Target, backend: str, n: int) -> None:
        if self._key(target, backend, n) not in self.done:
            why = "compiling and checking had used half of the time budget"
            point = self._point(target, backend, n, f"{why}: --resume goes on")
            point.final = False
            self._save(point)

    def _red(self, target: Target, backend: str, n: int) -> Point:
        point = self._point(target, backend, n, "the path disagrees with the reference")
        point.final = False  # once it is repaired, --resume should time it
        return point

    def _save(self, point: Point) -> None:
        self.results.points.append(point)
        self.done.add((point.series, point.n))
        self.state.add(point)


class _Call:
    """A call that remembers the inputs its operation's other paths can share."""

    def __init__(self, call: Callable[[], Any], drawn: Mapping[str, Any]):
        self.call, self.drawn = call, drawn

    def __call__(self) -> Any:
        return self.call()


def _least(call: Callable[[], Any]) -> float:
    """The shortest of repeated calls over a short while: what no call can do without."""
    times: list[float] = []
    end = time.perf_counter() + FIXED_SECONDS
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 200):
        times.append(once(call)[0])
    return min(times)


def resume(state: State, wanted: bool) -> tuple[Any, list[Point]]:
    """(rates, points) to go on from: what an earlier run kept, less what a time budget left out."""
    if not wanted:
        return None, []
    rates, points = state.load()
    return rates, [p for p in points if p.measured or p.final]


def identify(machine: Machine, settings: Settings) -> State:
    """The state file of this command on this machine."""
    return State(settings, machine)
