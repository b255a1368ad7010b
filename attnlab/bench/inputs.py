"""The arguments of one point, what its operation is prepared with, and what it costs by its card."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from attnlab import registry
from attnlab.checks import check, convert
from attnlab.contract import InputError, Operation
from attnlab.flat import flatten


@dataclass(frozen=True)
class Target:
    """One operation with the options that the benchmark chooses for it.

    `causal` is None where the operation has no such option. A `baseline` is plain attention, added
    so that there is something to beat.
    """

    exhibit: str
    operation: str
    causal: bool | None = None
    baseline: bool = False

    @property
    def title(self) -> str:
        causal = " (causal)" if self.causal else ""
        return f"{self.exhibit} {self.operation}{causal}"

    @property
    def op(self) -> Operation:
        return registry.find(self.exhibit).operation(self.operation)

    @property
    def ahead(self) -> bool:
        """Whether every position may see those after it."""
        return not self.causal if self.causal is not None else not self.op.causal


@dataclass(frozen=True)
class Cost:
    """What a card says about one call; None where the card is silent."""

    flops: float | None
    bytes: float | None
    blas: float | None
    items: int  # tokens (or documents, steps …) in the whole batch


# What papers call the number of heads; `--heads` means any of them.
ALIASES = {"heads": ("heads", "num_heads", "n_head")}


def size_name(op: Operation, name: str) -> str | None:
    """What the operation calls this size or option; None where it has no such thing."""
    known = (n for n in ALIASES.get(name, (name,)) if n in op.sizes or op.option(n))
    return next(known, None)


def sizes_of(target: Target, sizes_set: Mapping[str, Any]) -> dict[str, Any]:
    """The card's benchmark sizes with what was asked for on top, where the operation has it."""
    op = target.op
    asked = {size_name(op, k): v for k, v in sizes_set.items()}
    chosen = dict(op.bench_sizes) | {k: v for k, v in asked.items() if k is not None}
    if target.causal is not None:
        chosen["causal"] = target.causal
    return chosen


def draw(target: Target, n: int, dtype: str, seed: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The operation's own example of size n; what `prepare` builds is still missing."""
    return target.op.sample(n, seed, dtype, **sizes)


def prepare(
    target: Target, backend: str, n: int, dtype: str, seed: int, sizes: Mapping[str, Any]
) -> tuple[dict[str, Any], float | None]:
    """What the preparing operation supplies, made on the same backend where it has the path, and the
    seconds that took; ({}, None) where nothing is prepared."""
    if not target.op.prepare:
        return {}, None
    begun = time.perf_counter()
    made = target.op.prepared(n, seed, dtype, backend, **sizes)
    return made, time.perf_counter() - begun


def held(op: Operation, kwargs: Mapping[str, Any]) -> int:
    """Bytes of the arrays among the arguments."""
    leaves = flatten(op.arguments, kwargs).values()
    return sum(int(getattr(leaf, "nbytes", 0)) for leaf in leaves)


def place(op: Operation, backend: str, kwargs: dict[str, Any], device: bool) -> dict[str, Any]:
    """Arguments where the path works on them, so that no transfer is timed."""
    if not device or backend not in ("cuda", "torch"):
        return kwargs
    placed, _ = convert(op, kwargs, backend)
    moved = _to_gpu(placed) if backend == "torch" else placed
    return {k: v for k, v in moved.items() if v is not None}


def _to_gpu(value: Any) -> Any:
    """Tensors on the device, if torch has one (in the simulator it has not)."""
    import torch

    if not torch.cuda.is_available():
        return value
    if isinstance(value, Mapping):
        return {k: _to_gpu(v) for k, v in value.items()}
    if isinstance(value, list) and any(hasattr(v, "cuda") or isinstance(v, Mapping) for v in value):
        return [_to_gpu(v) for v in value]
    return value.cuda() if hasattr(value, "cuda") else value


def synchronize(backend: str, device: bool) -> Callable[[], None] | None:
    """What waits until a device has finished; None on the CPU, whose calls return when done."""
    if backend == "cuda":
        from numba import cuda

        return cuda.synchronize
    if backend == "torch" and device:
        import torch

        return torch.cuda.synchronize if torch.cuda.is_available() else None
    return None


def caller(target: Target, backend: str, kwargs: dict[str, Any], device: bool) -> Callable[[], Any]:
    """The call to time, as a user makes it: the path's public function, its checks included."""
    function = registry.find(target.exhibit).function(target.operation, backend)
    wait = synchronize(backend, device)
    if wait is None:
        return lambda: function(**kwargs)

    def call() -> Any:
        out = function(**kwargs)
        wait()
        return out

    return call


def cost(target: Target, n: int, kwargs: Mapping[str, Any], dtype: str) -> Cost:
    """Operations, bytes and items of this call, by the card's formulas."""
    card = target.op.cost
    call = check(target.op, kwargs)
    names = SimpleNamespace(**call.sizes | call.options)
    names.itemsize = 8 if dtype == "float64" else 4
    items = n * int(call.sizes.get(target.op.batch, 1))
    if card is None:
        return Cost(None, None, None, items)

    def value(formula: Any) -> float | None:
        return float(formula(names)) if callable(formula) else formula

    return Cost(value(card.flops), value(card.bytes), value(card.blas), items)


def fixed_cost_inputs(target: Target, draw_at: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Arguments of the smallest size that the operation takes: what such a call needs is its fixed cost."""
    for n in (1, 2, 4, 8, 16, 32):
        try:
            kwargs = draw_at(n)
            check(target.op, kwargs)
        except (InputError, ValueError, IndexError, ZeroDivisionError):
            continue
        return kwargs
    raise InputError(f"{target.title} takes no size up to 32")
