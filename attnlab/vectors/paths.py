"""Running cases on the paths, and how what came out compares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.contract import REQUIRED, BackendUnavailable, InputError, Operation
from attnlab.expressions import FUNCTIONS, evaluate, names_in
from attnlab.flat import declared, flatten, unflatten
from attnlab.registry import find
from attnlab.vectors.case import Case, VectorError
from attnlab.vectors.comparison import mismatch, settle
from attnlab.vectors.files import cases_of


@dataclass(frozen=True)
class Held:
    """How one output or gradient of a case compares: its largest error beside the tolerance."""

    case: str
    operation: str
    backend: str
    name: str
    ok: bool
    error: float
    tolerance: float
    detail: str = ""


def hold(case: Case, backend: str) -> list[Held]:
    """Run one case on one path and compare every stored output that the path computes, and on torch
    every gradient.

    Raises BackendUnavailable or InputError where the path cannot run.
    """
    op = find(case.exhibit).operation(case.operation)
    elsewhere = {a.name for a in op.results if a not in op.results_on(backend)}
    stored = {k: v for k, v in case.arrays["out"].items() if k not in elsewhere}
    arguments = case.arguments(op)
    want = unflatten(op.results, stored).keys()
    if backend == "torch" and case.arrays["grad"]:
        of_loss = {declared(op.results, name).keyword for name in case.loss_outputs(op)}
        outputs, gradients = _with_gradients(case, op, arguments, want | of_loss)
    else:
        outputs = find(case.exhibit).run(op.name, backend=backend, want=want, **arguments)._asdict()
        gradients = {}
    made = flatten(op.results, outputs)
    rows = []
    for name, value in stored.items():
        got, rule = made.get(name), case.compare.get(name, "close")
        ranks = declared(op.results, name).ranks if rule == "ties" else None
        if ranks is not None and got is not None and np.shape(got) == value.shape:
            free = case.atol + case.rtol
            got, value = settle(ranks, arguments, np.asarray(got), value, free)
            rule = "exact"
        rows.append(_held(case, backend, name, got, value, rule))
    rows += [
        _held(case, backend, f"grad {name}", gradients[name], case.arrays["grad"][name], "close")
        for name in gradients
    ]
    return rows


def backends_for(case: Case) -> list[str]:
    """The paths that the case's operation names."""
    op = find(case.exhibit).operation(case.operation)
    return [b for b in ("numpy", "numba", "cuda", "torch") if b in op.paths]


def _with_gradients(
    case: Case, op: Operation, arguments: Mapping[str, Any], want: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    import torch

    flat = {
        k: torch.from_numpy(np.array(v)) if v.dtype.kind in "fiub" else v
        for k, v in flatten(op.arguments, arguments).items()
    }
    sources = {g: case.grad_of.get(g, g).split("/", 1)[-1] for g in case.arrays["grad"]}
    for name in sources.values():
        if name not in flat:
            raise InputError(f"case {case.name!r}: gradient of {name!r}, which is no input")
        if not getattr(flat[name], "dtype", torch.int).is_floating_point:
            raise InputError(f"case {case.name!r}: gradient of {name!r}, which holds no floats")
        flat[name].requires_grad_(True)
    options = {k: v for k, v in arguments.items() if k in {o.name for o in op.options}}
    result = find(case.exhibit).run(
        op.name, backend="torch", want=want, **unflatten(op.arguments, flat), **options
    )
    outputs = flatten(op.results, result._asdict())
    defaults = {o.name: o.default for o in op.options if o.default is not REQUIRED}
    loss = _loss(case, outputs, flat, defaults | options)
    order = list(sources)
    gradients: Any = [None] * len(order)
    if loss.requires_grad:  # a loss that no input reaches has gradient 0
        gradients = torch.autograd.grad(loss, [flat[sources[g]] for g in order], allow_unused=True)
    found = {
        g: np.zeros_like(case.arrays["grad"][g]) if d is None else d.numpy()
        for g, d in zip(order, gradients)
    }
    detached = {
        k: v.detach().numpy() if isinstance(v, torch.Tensor) else v for k, v in outputs.items()
    }
    return unflatten(op.results, detached), found


def _loss(
    case: Case, outputs: Mapping[str, Any], inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    import torch

    if case.cotangents:
        parts = [
            (outputs[o] * torch.from_numpy(np.array(case.arrays["in"][a]))).sum()
            for o, a in case.cotangents.items()
        ]
        return torch.stack(parts).sum()
    if "output" in case.loss:
        return outputs[case.loss["output"]]
    if "sum" in case.loss:
        return torch.stack([outputs[o].sum() for o in case.loss["sum"]]).sum()
    formula = case.loss.get("formula")
    if not formula:
        raise InputError(f"case {case.name!r} stores gradients but no loss")
    functions = FUNCTIONS | {
        f: getattr(torch, f) for f in ("sum", "mean", "log", "exp", "sqrt", "abs")
    }
    names = {
        k: torch.from_numpy(np.array(v))
        for k, v in case.arrays["in"].items()
        if v.dtype.kind in "fiub"
    }
    names |= {**inputs, **outputs, **options}
    try:
        missing = names_in(formula) - set(names)
        if missing:
            raise InputError(
                f"case {case.name!r}: loss formula {formula!r} needs {', '.join(sorted(missing))}"
            )
        return evaluate(formula, names, functions)
    except (SyntaxError, NameError, ValueError) as error:
        raise InputError(
            f"case {case.name!r}: loss formula {formula!r} is no expression ({error})"
        ) from None


def _held(case: Case, backend: str, name: str, made: Any, stored: np.ndarray, rule: str) -> Held:
    def row(ok: bool, error: float, tolerance: float, detail: str = "") -> Held:
        return Held(case.name, case.operation, backend, name, ok, error, tolerance, detail)

    if rule == "skip":
        return row(True, 0.0, float("inf"), "skipped, as the file says")
    if made is None:
        return row(False, float("inf"), 0.0, "not returned")
    made = made.detach().cpu().numpy() if hasattr(made, "detach") else np.asarray(made)
    if made.shape != stored.shape:
        return row(False, float("inf"), 0.0, f"shape {made.shape}, expected {stored.shape}")
    wrong, gap, bound = mismatch(made, stored, rule, case.rtol, case.atol)
    if rule in ("set", "ties"):
        made, stored = np.sort(made, axis=-1), np.sort(stored, axis=-1)
    if stored.dtype.kind not in "fiub" or rule == "exact":
        return row(not wrong.any(), float(wrong.sum()), 0.0, _first(wrong, made, stored))
    error = float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
    tolerance = float(bound.max(initial=case.atol))
    made, stored = made.astype(np.float64), stored.astype(np.float64)
    return row(not wrong.any(), error, tolerance, _first(wrong, made, stored))


def _first(wrong: np.ndarray, made: np.ndarray, stored: np.ndarray) -> str:
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"first at {at}: {made[at]} instead of {stored[at]}; {int(wrong.sum())} of {wrong.size} differ"


def run(path: str | Path, exhibit: str | None = None, backend: str | None = None) -> Iterator[Held]:
    """Every case of a file on every path (or one). A path that cannot run here yields nothing
    unless it was asked for by name, when BackendUnavailable goes to the caller. Cases whose operation
    lacks that path are passed over; InputError where no case has it. A case that is badly
    described, or that a path refuses, keeps none of the others from running: InputError names them
    all in the end. One that breaks a path has not held, and says how it broke."""
    cases, bad = cases_of(Path(path), exhibit)
    if backend and any(backend in backends_for(case) for case in cases):
        cases = [case for case in cases if backend in backends_for(case)]
    # in order, each once: paths refuse alike
    refused = dict.fromkeys(str(error).removeprefix(f"{path}: ") for error in bad)
    for case in cases:
        for name in [backend] if backend else backends_for(case):
            try:
                yield from hold(case, name)
            except BackendUnavailable:
                if backend:
                    raise
            except InputError as error:
                where = f"case {case.name!r}: "
                refused[where + str(error).removeprefix(where)] = None
            except Exception as error:  # whatever a path's code may raise
                how = f"{type(error).__name__}: {error}"
                yield Held(case.name, case.operation, name, "call", False, np.inf, 0.0, how)
    if refused:
        raise InputError("; ".join(refused))


def not_run(paths: Iterable[str | Path], exhibit: str | None = None) -> str:
    """One sentence about the CUDA cases that no device was there for; empty where all ran."""
    from attnlab.hardware import reason

    why = reason()
    if why is None:
        return ""
    cases = 0
    for path in paths:
        try:
            found, _ = cases_of(Path(path), exhibit)
            cases += sum("cuda" in backends_for(case) for case in found)
        except VectorError:
            continue
    return f"not run on hardware: {cases} cases of the cuda paths ({why})" if cases else ""
