"""Which operations, on which backends, at which sizes, and how long that will take."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from attnlab import registry
from attnlab.bench import inputs
from attnlab.bench.inputs import Target
from attnlab.bench.machine import Rates
from attnlab.bench.settings import Settings
from attnlab.checks import check, check_option
from attnlab.contract import BACKENDS, BackendUnavailable, Exhibit, InputError, Operation, suggest

BASELINE = "attention"
CPU = ("numba", "torch", "numpy")
# Shares of the measured rates that a path is expected to reach, for the estimate alone: matrix
# products, other operations (of the matrix-product rate), bytes; and seconds of a call's fixed cost.
EXPECTED = {
    "numba": (0.6, 0.1, 0.5),
    "torch": (0.5, 0.08, 0.4),
    "numpy": (0.2, 0.01, 0.1),
    "cuda": (1, 1, 1),
}
FIXED = 100e-6
CALL_SHARE = 40  # one call may take this part of the budget
REFERENCE = 1.0  # seconds of a reference call, where the reference was not asked for by name
POINT = 0.15  # seconds for drawing inputs, calibrating and saving a point
SMALL = 4096  # inputs of this size are drawn to see whether the sizes asked for make sense
CHILD = 0.6  # seconds for the process that measures a point's memory


@dataclass
class Plan:
    """Targets (baselines last), backends, and what was left out and why."""

    targets: list[Target]
    backends: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    insisted: bool = False  # the backends were asked for by name

    @property
    def device(self) -> bool:
        """Whether arrays live on the CUDA device: cuda was asked for, torch at most beside it."""
        return self.insisted and "cuda" in self.backends and set(self.backends) <= {"cuda", "torch"}

    @property
    def series(self) -> list[tuple[Target, str]]:
        """Operation and backend; an added baseline's reference is nobody's rival."""
        return [
            (t, b)
            for t in self.targets
            for b in self.backends
            if b in t.op.paths and (b != "numpy" or self.insisted or not t.baseline)
        ]


def unavailable(backend: str) -> str | None:
    """Why a backend cannot run here, or None."""
    module = {"numba": "numba", "torch": "torch", "cuda": "numba"}.get(backend)
    if module and importlib.util.find_spec(module) is None:
        return f"{module} is not installed: pip install {module}"
    if backend == "cuda":
        from attnlab.hardware import reason

        return reason()
    return None


def make(settings: Settings) -> Plan:
    """The plan. Raises InputError for wrong names, BackendUnavailable for a missing backend that was
    asked for: there is no fallback."""
    notes: list[str] = []
    targets = _targets(settings, notes)
    backends = _backends(settings, targets, notes)
    _check_sizes(settings, targets, notes)
    targets = _check_values(settings, targets, notes)
    targets += _baselines(settings, targets)
    return Plan(targets, backends, notes, insisted=bool(settings.backends))


def _targets(settings: Settings, notes: list[str]) -> list[Target]:
    if settings.names:
        exhibits = [registry.find(name) for name in dict.fromkeys(settings.names)]
        ops = [exhibit.operation(settings.operation) for exhibit in exhibits]
    else:
        found = [(e, _token_operation(e, settings.operation)) for e in registry.exhibits()]
        ops = [op for _, op in found if op is not None]
        if not ops:
            every = {op.name for e in registry.exhibits() for op in e.operations}
            raise InputError(
                f"--operation: no exhibit with a sequence length has an operation "
                f"{settings.operation!r}{suggest(settings.operation or '', every)}"
            )
        left = [e.name for e, op in found if op is None]
        if left:
            notes.append(f"without a sequence length (name them to time them): {', '.join(left)}")
    targets = []
    for op in ops:
        causal = settings.causal if op.option("causal") else None
        if settings.causal and causal is None and not op.causal:
            notes.append(f"{op.exhibit.name} {op.name} is not causal and has no such option")
        targets.append(Target(op.exhibit.name, op.name, causal))
    return targets


def _token_operation(exhibit: Exhibit, name: str | None) -> Operation | None:
    ordered = [exhibit.headline, *(op for op in exhibit.operations if op is not exhibit.headline)]
    for op in ordered:
        if op.cost is not None and op.cost.grows == "tokens" and name in (None, op.name):
            return op
    return None


def _backends(settings: Settings, targets: Sequence[Target], notes: list[str]) -> tuple[str, ...]:
    offered = {b for t in targets for b in t.op.paths}
    if settings.backends:
        for backend in settings.backends:
            if backend not in BACKENDS:
                raise InputError(
                    f"--backend: {backend!r} is none of {', '.join(BACKENDS)}{suggest(backend, BACKENDS)}"
                )
            if (why := unavailable(backend)) is not None:
                why = why.removeprefix("backend cuda: ")
                raise BackendUnavailable(f"--backend {backend} cannot run here: {why}")
            lacking = [t.title for t in targets if backend not in t.op.paths]
            if lacking and (settings.names or backend not in offered):
                raise InputError(f"--backend: {lacking[0]} has no {backend} path")
            if lacking:
                notes.append(f"without a {backend} path: {', '.join(lacking)}")
        return tuple(dict.fromkeys(settings.backends))
    chosen = []
    for backend in (*CPU, "cuda"):
        if backend not in offered:
            continue
        why = unavailable(backend)
        if backend == "cuda" and why is None and _simulated():
            why = "the simulator's times mean nothing"
        if why is None:
            chosen.append(backend)
        else:
            notes.append(f"backend {backend} was not run: {why}")
    return tuple(chosen)


def _simulated() -> bool:
    from attnlab.kernels.cuda.device import simulated

    return simulated()


def _check_sizes(settings: Settings, targets: Sequence[Target], notes: list[str]) -> None:
    """A size that no operation has is an error; one that some lack is said."""
    for name in settings.sizes_set:
        lacking = [t.exhibit for t in targets if inputs.size_name(t.op, name) is None]
        flag = f"--{name}" if name in ("dim", "heads", "batch") else f"--set {name}"
        if len(lacking) == len(targets):
            known = sorted(
                {s for t in targets for s in (*t.op.sizes, *(o.name for o in t.op.options))}
            )
            raise InputError(
                f"{flag}: {' and '.join(lacking[:3])} {'has' if len(lacking) == 1 else 'have'} no "
                f"size or option {name!r}{suggest(name, known)}; known: {', '.join(known)}"
            )
        if lacking:
            notes.append(f"{flag} means nothing to {', '.join(lacking)}")


def _check_values(settings: Settings, targets: list[Target], notes: list[str]) -> list[Target]:
    """The targets that take the sizes and options asked for; the others are refused where they were
    named, else said."""
    taken = []
    for target in targets:
        try:
            notes += _try_values(target, settings)
        except (InputError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            words = " ".join(f"{name}={value}" for name, value in settings.sizes_set.items())
            why = f"{target.title} takes no {words}: {error}"
            if settings.names:
                raise InputError(why) from None
            notes.append(f"left out: {why}")
        else:
            taken.append(target)
    if not taken:
        raise InputError("; ".join(notes))
    return taken


def _try_values(target: Target, settings: Settings) -> list[str]:
    """What the smallest inputs made of the values asked for, where that is something else. Raises
    what the operation's example or its check of inputs raises."""
    op, n = target.op, min(settings.ns)
    named = {inputs.size_name(op, name): value for name, value in settings.sizes_set.items()}
    asked = {name: value for name, value in named.items() if name is not None}
    for name, value in asked.items():
        usual = op.sizes.get(name)
        if isinstance(usual, int) and type(value) is not type(usual):
            raise InputError(f"{name} must be {type(usual).__name__}, but is {value!r}")
        if isinstance(usual, int) and value < 0:
            raise InputError(f"{name} must be at least 0, but is {value}")
        option = op.option(name)
        if option is not None and name not in op.sizes:
            check_option(option, value)
    if not asked or n > SMALL:
        return []
    sizes = inputs.sizes_of(target, settings.sizes_set)
    with np.errstate(all="ignore"):
        drawn = inputs.draw(target, n, settings.dtype, settings.seed, sizes)
    if op.prepare:
        return []  # some of the arrays are still missing
    call = check(op, drawn)
    made = call.sizes | call.options
    return [
        f"{target.title}: {name}={value} became {made[name]} at n = {n}"
        for name, value in asked.items()
        if type(made.get(name)) is type(value) and made[name] != value
    ]


def _baselines(settings: Settings, targets: Sequence[Target]) -> list[Target]:
    """Plain attention, looking ahead or not as each operation does, where it is not asked for anyway."""
    if BASELINE not in registry.names():
        return []
    op = registry.find(BASELINE).headline
    tokens = [t for t in targets if t.op.cost is not None and t.op.cost.grows == "tokens"]
    wanted = {not t.ahead for t in tokens if t.exhibit != BASELINE}
    have = {t.causal for t in targets if (t.exhibit, t.operation) == (BASELINE, op.name)}
    return [Target(BASELINE, op.name, causal, baseline=True) for causal in sorted(wanted - have)]


def baseline_of(target: Target, targets: Sequence[Target]) -> Target | None:
    """The plain attention that a target is compared with; None for attention itself and for what has
    no sequence length."""
    card = target.op.cost
    if target.exhibit == BASELINE or card is None or card.grows != "tokens":
        return None
    op = registry.find(BASELINE).headline
    for other in targets:
        if (other.exhibit, other.operation) == (BASELINE, op.name) and other.ahead == target.ahead:
            return other
    return None


def estimate(plan: Plan, settings: Settings, rates: Rates) -> float:
    """Seconds that the plan would take, points with calls over the limit left out, from the cards' formulas and this
    machine's rates."""
    total = 0.0
    smallest = min(settings.ns)
    for target, backend in plan.series:
        at = expected_call(target, backend, smallest, settings, rates)
        exponent = target.op.cost.exponent if target.op.cost else 1.0
        for n in settings.ns:
            call = at * (n / smallest) ** exponent
            if call > longest_call(settings, backend):
                continue
            calls = settings.repeat + 3 + (settings.repeat if call < 0.02 else 0)
            total += POINT + calls * max(call, 2e-3)
            total += (CHILD + call) if settings.memory and backend in CPU else 0
    return total


def longest_call(settings: Settings, backend: str) -> float:
    """Seconds that one call may take; the reference, where nobody asked for it, is kept short."""
    limit = settings.budget / CALL_SHARE
    return min(limit, REFERENCE) if backend == "numpy" and not settings.backends else limit


def expected_call(target: Target, backend: str, n: int, settings: Settings, rates: Rates) -> float:
    """Seconds of one call by the card's formulas; only ever used before anything was measured."""
    sizes = inputs.sizes_of(target, settings.sizes_set)
    try:
        cost = inputs.cost(
            target,
            n,
            inputs.draw(target, min(n, 256), settings.dtype, settings.seed, sizes),
            settings.dtype,
        )
    except InputError:
        return FIXED  # the operation needs what `prepare` builds: nothing is known yet
    grown = (n / min(n, 256)) ** (target.op.cost.exponent if target.op.cost else 1.0)
    products, other, traffic = EXPECTED[backend]
    flops, blas = (cost.flops or 0.0) * grown, cost.blas or 0.0
    peak = rates.flops(settings.dtype)
    seconds = flops * (blas / (products * peak) + (1 - blas) / (other * peak))
    return FIXED + max(seconds, (cost.bytes or 0.0) * grown / (traffic * rates.copy))
