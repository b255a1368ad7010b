"""A run on the terminal, at any width: header, tables, fits, crossovers, and what was not measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnlab.bench.compare import Change
from attnlab.bench.fit import Crossover, Interval
from attnlab.bench.inputs import Target, sizes_of
from attnlab.bench.machine import power_caveat
from attnlab.bench.plan import Plan
from attnlab.bench.records import Point, Results
from attnlab.bench.settings import PRESETS, headline_size
from attnlab.bench.summary import OVERHEAD, Growth, Shares, Summary, shares, targets_of
from attnlab.contract import BACKENDS

WIDE = 124  # columns: from here on one table holds everything
NARROW = 60  # below, it takes three
NOT_MEASURED = (
    "Measured: the operation alone, forward, on random inputs that lie in memory, checks of the "
    "arguments included. Not measured: model quality, gradients, a whole model's speed (a faster "
    "operation is a smaller part of it). Sparse paths gather what they attend to; none is simulated "
    "by a mask."
)
# Okabe and Ito's vermillion and bluish green, told apart by words too.
VERDICTS = {
    "PASS": "#009E73",
    "faster": "#009E73",
    "FAIL": "#D55E00",
    "FAILED": "#D55E00",
    "slower": "#D55E00",
}


def number(value: float | None, digits: int = 3) -> str:
    """At most `digits` significant digits, never in scientific notation below 10^7; "–" for None."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1e7:
        return f"{value:.{digits - 1}e}".replace("e+0", "e").replace("e+", "e")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 6)}f}"


def ms(seconds: float | None) -> str:
    """Milliseconds."""
    return number(None if seconds is None else seconds * 1e3)


def short(value: float | None) -> str:
    """1234567 -> 1.23M."""
    if value is None or not math.isfinite(value):
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return number(value / size) + unit
    return number(value)


def counted(count: int, noun: str) -> str:
    """1 path, 2 paths."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    if seconds < 1:
        return "1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def mebibytes(size: int | None) -> str:
    if size is None:
        return "–"
    return number(size / 2**20) if size >= 2**20 else "< 1"


def share(value: float | None) -> str:
    """Percent; what is over 100 % is marked, for it needs an explanation."""
    if value is None:
        return "–"
    return f"{value:.0%}" + ("!" if value > 1 else "") if value >= 0.0995 else f"{value:.1%}"


@dataclass(frozen=True)
class Column:
    title: str
    cell: Callable[[Point, Shares], str]


def _columns(results: Results, points: list[Point]) -> tuple[list[Column], list[Column]]:
    """Columns about time and memory, and those about rates."""
    card = points[0].target.op.cost
    unit = card.grows.split(",")[0] if card else "items"

    def spread(p: Point, s: Shares) -> str:
        low, high = p.quantiles()
        return f"{ms(low)}–{ms(high)}"

    times = [
        Column("median ms", lambda p, s: ms(p.median)),
        Column("p20–p80", spread),
        Column("1st ms", lambda p, s: ms(p.first)),
    ]
    if any(p.prepare is not None for p in points):
        times.append(Column("prep ms", lambda p, s: ms(p.prepare)))
    if results.settings.memory:
        times.append(Column("peak MiB", lambda p, s: mebibytes(p.peak)))
    times.append(Column("FLOP", lambda p, s: short(p.flops)))
    rates = [
        Column(f"{unit}/s", lambda p, s: short(p.items / p.median)),
        Column("GFLOP/s", lambda p, s: number(None if s.flops is None else s.flops / 1e9)),
        Column("gemm %", lambda p, s: share(s.of_flops)),
        Column("GB/s", lambda p, s: number(None if s.bytes is None else s.bytes / 1e9)),
        Column("copy %", lambda p, s: share(s.of_bytes)),
        Column("bound", lambda p, s: s.bound or "–"),
    ]
    return times, rates


class Report:
    """Prints the parts of a run to a console."""

    def __init__(self, console: Console):
        self.console = console

    def say(self, text: str = "", style: str = "") -> None:
        self.console.print(Text(text, style=style))

    def _new_table(self) -> Table:
        gap = 1 if self.console.width >= 80 else 0  # beside the box's own
        return Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False)

    # --- before ------------------------------------------------------------------------------

    def header(self, results: Results, plan: Plan) -> None:
        """All that is needed to repeat the run."""
        s, machine = results.settings, results.machine
        versions = ", ".join(f"{k} {v}" for k, v in machine.versions.items() if k != "attnlab")
        self.say(f"attnlab bench {machine.versions.get('attnlab', '')}", "bold")
        # one line, however long: what is copied from a terminal must run
        self.console.print(Text(f"$ {s.command()}"), soft_wrap=True)
        rows = [
            ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.system}"),
            ("threads", f"{machine.threads} for each path (Numba, torch, BLAS of NumPy; BLAS inside Numba kernels: 1)"),
            ("versions", f"Python {machine.python}, {versions}"),
            ("rates here", f"{results.rates} (measured, {machine.threads} threads)"),
            ("caveat", power_caveat()),
            ("inputs", f"{s.dtype}, seed {s.seed}, backends {', '.join(plan.backends)}"),
        ]  # fmt: skip
        if machine.gpu:
            rows.append(("device", machine.gpu))
        if s.preset:
            rows.append(("preset", f"{s.preset}: {PRESETS[s.preset].about}"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in rows:
            grid.add_row(name, Text(text))
        self.console.print(grid)
        for note in results.notes:
            self.say(f"· {note}")
        count = len(plan.series) * len(s.ns)
        fits = (
            "" if results.estimate <= s.budget else "; what does not fit is listed with the reason"
        )
        self.say(
            f"{counted(len(plan.targets), 'operation')}, {counted(len(plan.series), 'path')}, "
            f"{counted(count, 'point')}: about {duration(results.estimate)} "
            f"(budget {duration(s.budget)}{fits})"
        )

    # --- after -------------------------------------------------------------------------------

    def tables(self, results: Results, summaries: list[Summary]) -> None:
        self.say(f"rates, the best seen before and during the run: {results.rates}")
        for target in targets_of(results):
            self._target(results, target, [s for s in summaries if s.target == target])

    def _target(self, results: Results, target: Target, summaries: list[Summary]) -> None:
        op = target.op
        sizes = sizes_of(target, results.settings.sizes_set)
        shape = ", ".join(f"{k} {v}" for k, v in sizes.items())
        added = ", added as the baseline" if target.baseline else ""
        self.say()
        self.say(f"{target.title} · {op.exhibit.title}{added}", "bold")
        cost = f"; operations ∝ {op.cost.time}, a causal mask counted once" if op.cost else ""
        self.say(f"{op.exhibit.paper.citation}", "dim")
        self.say(f"{shape or 'no fixed sizes'}{cost}", "dim")
        for gate in results.gates:
            if (gate.exhibit, gate.operation, gate.causal) == (
                target.exhibit,
                target.operation,
                target.causal,
            ):
                self._marked(f"{gate.backend}: {gate.line}")
        points = [p for p in results.points if p.target == target]
        points.sort(key=lambda p: (p.n, BACKENDS.index(p.backend)))  # type: ignore[arg-type]
        measured = [p for p in points if p.measured]
        if measured:
            times, rates = _columns(results, measured)
            if self.console.width >= WIDE:
                parts = [times + rates]
            elif self.console.width >= NARROW:
                parts = [times, rates]
            else:
                parts = [times[:3], times[3:] + rates[:2], rates[2:]]
            self._table(points, parts[0], results)
            for part in parts[1:]:
                self._table(measured, part, results)
        self._reasons(points)
        for summary in summaries:
            self._fits(summary, target)

    def _table(self, points: list[Point], columns: list[Column], results: Results) -> None:
        table = self._new_table()
        table.add_column("n", justify="right", no_wrap=True)
        table.add_column("path", no_wrap=True)
        for column in columns:
            table.add_column(column.title, justify="right", overflow="fold")
        before = None
        for point in points:
            if not point.measured:
                cells = ["not run", *[""] * (len(columns) - 1)]
            else:
                part = shares(point, results.rates, results.settings.dtype)
                cells = [c.cell(point, part) for c in columns]
            n = "" if point.n == before else str(point.n)
            table.add_row(n, point.backend, *cells, style="" if point.measured else "dim")
            before = point.n
        self.console.print(table)

    def _reasons(self, points: list[Point]) -> None:
        """Why there are no times, or no peaks: equal reasons of one path in one line."""
        grouped: dict[tuple[str, str, str], list[int]] = {}
        for p in points:
            if not p.measured and p.reason:
                grouped.setdefault((p.backend, "not run", p.reason), []).append(p.n)
            elif p.peak is None and p.peak_note:
                grouped.setdefault((p.backend, "no peak", p.peak_note), []).append(p.n)
        for (backend, what, reason), ns in grouped.items():
            self.say(f"{what}: {backend}, n = {_range(ns)}: {reason}", "dim")

    def _fits(self, summary: Summary, target: Target) -> None:
        for what, growth in (("time", summary.time), ("memory", summary.memory)):
            if growth is not None:
                self._marked(f"{summary.backend}: {what} ∝ {_growth(growth)}")
                if growth.left_out:
                    why = (
                        f"a call's fixed cost is over {OVERHEAD:.0%}"
                        if what == "time"
                        else "below 1 MiB"
                    )
                    self.say(f"  left out of the fit: n = {_range(growth.left_out)} ({why})", "dim")
        if summary.time is None:
            self.say(
                f"{summary.backend}: no time exponent: fewer than two sizes at which a call's fixed cost "
                f"is under {OVERHEAD:.0%}",
                "dim",
            )
        if summary.versus is not None:
            self.say(f"{summary.backend}: {_crossover(summary.versus)}")

    def overview(self, results: Results, summaries: list[Summary]) -> None:
        """All series side by side."""
        if len(summaries) < 2:
            return
        self.say()
        self.say("Side by side", "bold")
        headline = headline_size(results.settings)
        largest = max((p.n for p in results.points if p.measured), default=0)
        at = headline if headline and headline <= largest else largest
        narrow = self.console.width < 90
        table = self._new_table()
        table.add_column("operation", overflow="fold")
        table.add_column("path", no_wrap=True)
        for title in (
            f"ms at {at}",
            "time n^",
            *([] if narrow else ["memory n^"]),
            "beats attention",
            *([] if narrow else ["speed-up"]),
        ):
            table.add_column(title, justify="right", overflow="fold")
        for s in summaries:
            point = next(
                (p for p in results.of(s.target, s.backend) if p.n == at and p.measured), None
            )
            versus = s.versus
            where = "–" if versus is None else _where(versus)
            speedup = (
                "–" if versus is None else f"{number(versus.speedup.value)}× at {versus.largest}"
            )
            cells = [
                ms(point.median) if point else "not run",
                _exponent(s.time),
                *([] if narrow else [_exponent(s.memory)]),
                where,
                *([] if narrow else [speedup]),
            ]
            table.add_row(s.target.title, s.backend, *cells)
        self.console.print(table)
        self.say(
            "exponents: fitted, ± half the 95 % interval, and the verdict on the card's claim",
            "dim",
        )

    def headline(self, results: Results, summaries: list[Summary]) -> None:
        """The one currency that two machines' runs of a preset can be laid side by side in."""
        size = headline_size(results.settings)
        if size is None:
            if results.settings.preset:
                self.say("no headline: a size or option differs from the preset's")
            return
        values = [
            f"{s.target.title} {s.backend} {ms(s.headline)} ms" for s in summaries if s.headline
        ]
        if not values:
            self.say(f"no headline: n = {size} was not reached within the budget")
        else:
            self.say()
            self.say(
                f"headline, preset {results.settings.preset}, n = {size}: " + "; ".join(values),
                "bold",
            )

    def comparison(self, changes: list[Change], caveats: Iterable[str], name: str) -> None:
        self.say()
        self.say(f"Compared with {name}", "bold")
        for caveat in caveats:
            self.say(f"· {caveat}")
        if not changes:
            return
        table = self._new_table()
        table.add_column("operation", overflow="fold")
        table.add_column("path", no_wrap=True)
        for title in ("n", "old ms", "new ms", "new / old", "95 %"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("verdict", overflow="fold")
        narrow = self.console.width < 72  # where the table's numbers would be cut off
        for c in changes:
            between = (
                f"{c.ratio.low:.2f}–{c.ratio.high:.2f}" if math.isfinite(c.ratio.high) else "–"
            )
            title, backend, n = c.point.target.title, c.point.backend, str(c.point.n)
            old, new, ratio = ms(c.old), ms(c.point.median), f"{c.ratio.value:.2f}"
            if narrow:
                self._marked(
                    f"{title} {backend}, n = {n}: {old} ms, now {new} ms, new / old {ratio} "
                    f"(95 %: {between}): {c.verdict}"
                )
                continue
            verdict = Text(c.verdict, style=VERDICTS.get(c.verdict, ""))
            table.add_row(title, backend, n, old, new, ratio, between, verdict)
        if not narrow:
            self.console.print(table)
        counts = {
            v: sum(c.verdict == v for c in changes)
            for v in ("faster", "slower", "no difference seen", "too few samples")
        }
        self.say(", ".join(f"{n} {v}" for v, n in counts.items() if n))

    def footer(self, results: Results) -> None:
        measured = [p for p in results.points if p.measured]
        parts = [shares(p, results.rates, results.settings.dtype) for p in measured]
        self.say()
        if any((s.of_flops or 0) > 1 for s in parts):
            self.say(
                "! over 100 % of the matrix-product rate: the card counts operations that this path "
                "does not do, or the clock rose after the rates were measured"
            )
        if any((s.of_bytes or 0) > 1 for s in parts):
            self.say("! over 100 % of the copy rate: the data of these sizes lie in the cache")
        self.say(NOT_MEASURED, "dim")

    def _marked(self, text: str) -> None:
        line = Text(text)
        for word, style in VERDICTS.items():
            line.highlight_regex(rf"\b{word}\b", style)
        self.console.print(line)


def _range(ns: Iterable[int]) -> str:
    ordered = sorted(set(ns))
    return ", ".join(map(str, ordered)) if len(ordered) < 4 else f"{ordered[0]} … {ordered[-1]}"


def _growth(growth: Growth) -> str:
    fitted, used = growth.fitted, growth.used
    between = (
        f"[{fitted.low:.2f}, {fitted.high:.2f}]"
        if math.isfinite(fitted.low)
        else "(two sizes: no interval)"
    )
    text = (
        f"n^{fitted.slope:.2f} {between}, n = {min(used)} … {max(used)} ({len(used)} points, "
        f"R² {fitted.r2:.4f})"
    )
    if growth.claim is None:
        return text
    hint = {
        "below": " (grows less than claimed; see larger n)",
        "not judged": f" (it is for n ≥ {growth.claimed_from})",
    }.get(growth.verdict, "")
    return f"{text}; claim {growth.claim:g}: {growth.verdict}{hint}"


def _exponent(growth: Growth | None) -> str:
    if growth is None:
        return "–"
    half = (growth.fitted.high - growth.fitted.low) / 2
    if not math.isfinite(half):
        return "–"  # two sizes always lie on a line
    return f"{growth.fitted.slope:.2f} ± {half:.2f}" + (
        f" {growth.verdict}" if growth.verdict else ""
    )


def _where(versus: Crossover) -> str:
    if versus.where == "at" and versus.n is not None:
        return f"n ≥ {versus.n.value:.0f}"
    return "everywhere" if versus.where == "always" else "not in range"


def _bounds(interval: Interval, smallest: str = "below the smallest n") -> str:
    low = smallest if interval.low == 0 else f"{interval.low:.0f}"
    high = "beyond the largest n" if math.isinf(interval.high) else f"{interval.high:.0f}"
    return f"[{low}, {high}]"


def _crossover(versus: Crossover) -> str:
    speed = versus.speedup
    spread = (
        f"[{number(speed.low)}, {number(speed.high)}]"
        if math.isfinite(speed.high)
        else "(too few samples for an interval)"
    )
    at = f"{number(speed.value)}× {spread} at n = {versus.largest}"
    if versus.where == "always":
        return f"faster than plain attention at every n measured; {at}"
    if versus.where == "never":
        return f"faster than plain attention: not in range; {at}"
    assert versus.n is not None
    return f"faster than plain attention from n ≈ {versus.n.value:.0f} {_bounds(versus.n)}; {at}"
