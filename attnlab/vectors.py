"""Test vectors: numbers from the authors' own code, held against every path.

NAME.npz holds arrays CASE/in/X, CASE/param/X, CASE/out/X and CASE/grad/X; NAME.json beside it
says which code made them and describes every case (operation, options, loss, compare, rtol,
atol). `read` opens a pair and refuses anything odd with one clear line; `hold` runs one case on
one path and compares. Files come from anywhere: pickles are refused and loss formulas are
evaluated from a whitelisted syntax tree.
"""

from __future__ import annotations

import difflib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.contract import (
    REQUIRED,
    Array,
    BackendUnavailable,
    Exhibit,
    Group,
    InputError,
    Operation,
    Option,
)
from attnlab.expressions import FUNCTIONS, evaluate, names_in
from attnlab.flat import declared, flatten, unflatten
from attnlab.registry import find

# what is read of NAME.json; all else in it is for the reader
FILE_KEYS = ("exhibit", "cases")
CASE_KEYS = ("operation", "options", "loss", "grad_of", "compare", "rtol", "atol")
LOSS_KEYS = ("cotangent", "output", "sum", "formula")
COMPARE = ("close", "exact", "set", "ties", "skip")
SECTIONS = ("in", "param", "out", "grad")

# what a file that is damaged, encrypted or of impossible sizes makes zipfile and NumPy raise
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, RuntimeError,
    MemoryError, OverflowError, SyntaxError,
)  # fmt: skip


class VectorError(ValueError):
    """A file that is no pair of test vectors; the message says which file and what is wrong."""


@dataclass(frozen=True)
class Case:
    """One case: what goes in, what must come out and how closely."""

    name: str
    exhibit: str
    operation: str
    options: dict[str, Any]
    arrays: dict[str, dict[str, np.ndarray]]  # section -> name -> array
    loss: dict[str, Any] = field(default_factory=dict)
    grad_of: dict[str, str] = field(default_factory=dict)
    compare: dict[str, str] = field(default_factory=dict)
    rtol: float = 1e-9
    atol: float = 1e-11
    note: str = ""

    @property
    def cotangents(self) -> dict[str, str]:
        return self.loss.get("cotangent", {})

    def arguments(self, op: Operation) -> dict[str, Any]:
        """Keyword arguments of the operation; cotangents, and other arrays that only the loss names,
        are no inputs. Floats share one dtype, half precision being read as float32, as do whole
        numbers that a file stores as integers where floats are declared; an empty list of integers,
        which NumPy makes floats, is one of integers. Options may lie among the arrays, or be numbers
        of another kind but the same value; one that is null is left at its default."""
        loss_only = set(self.cotangents.values()) | {
            name for name in self._in_formula if not _declares(op.arguments, name)
        }
        flat = {k: v for k, v in self.arrays["in"].items() if k not in loss_only}
        flat |= self.arrays["param"]
        options = self.options | {
            name: flat.pop(name).tolist() for name in set(flat) & {o.name for o in op.options}
        }
        floats = [v.dtype for v in flat.values() if v.dtype.kind == "f"]
        common = np.result_type(np.float32, *floats) if floats else np.dtype(np.float64)
        for name, value in flat.items():
            kind = declared(op.arguments, name).dtype
            if value.dtype.kind == "f" and not value.size and kind == "int":
                flat[name] = value.astype(np.int64)
            elif value.dtype.kind == "f" or (value.dtype.kind in "iu" and kind == "float"):
                flat[name] = value.astype(common)
        known = {o.name: o for o in op.options}
        for name in options.keys() & known.keys():
            options[name] = _as_declared(known[name], options[name])
        given = {k: v for k, v in options.items() if v is not None or _takes_none(known.get(k))}
        return unflatten(op.arguments, flat) | given

    def loss_outputs(self, op: Operation) -> set[str]:
        """Outputs that the loss is of. Raises InputError where it names one that is not declared."""
        named = {*self.cotangents, *self.loss.get("sum", ())}
        named |= {self.loss["output"]} if "output" in self.loss else set()
        for output in named:
            declared(op.results, output)
        return named | {name for name in self._in_formula if _declares(op.results, name)}

    @property
    def _in_formula(self) -> frozenset[str]:
        try:
            return names_in(self.loss.get("formula") or "0")
        except SyntaxError:  # prose: refused where gradients need it
            return frozenset()


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


def _as_declared(option: Option, value: Any) -> Any:
    """4.0 for the integer 4, and 1 or 0 for a truth, as other programs write them."""
    if option.type is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if option.type is bool and value in (0, 1):
        return bool(value)
    return value


def _takes_none(option: Option | None) -> bool:
    return option is None or None in (option.choices or ())


def _declares(specs: Iterable[Array | Group], name: str) -> bool:
    try:
        declared(specs, name)
    except InputError:
        return False
    return True


def read(path: str | Path, exhibit: str | None = None) -> list[Case]:
    """The cases of NAME.npz and NAME.json. Raises VectorError with the file and the reason."""
    cases, bad = _cases(Path(path), exhibit)
    if bad:
        raise bad[0]
    return cases


def _cases(path: Path, exhibit: str | None) -> tuple[list[Case], list[VectorError]]:
    """The cases of a pair, and what is wrong with others of it. Raises VectorError where it is the
    whole pair."""
    if path.suffix != ".npz":
        raise VectorError(f"{path}: expected a .npz file")
    if not path.exists():
        raise VectorError(f"{path}: no such file")
    beside = path.with_suffix(".json")
    if not beside.exists():
        raise VectorError(f"{path}: {beside.name} is missing beside it")
    try:
        described = json.loads(beside.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VectorError(f"{beside}: not valid JSON ({error})") from None
    if not isinstance(described, dict) or not isinstance(described.get("cases"), dict):
        raise VectorError(f'{beside}: expected an object with "cases"')
    _known(f"{beside}", described, FILE_KEYS)
    arrays = _arrays(path)
    named = exhibit or described.get("exhibit")
    if named is not None and not isinstance(named, str):
        raise VectorError(f'{beside}: "exhibit" must be a name, but is {named!r}')
    try:
        owner = find(named or path.stem)
    except InputError as error:
        how = "" if named else f'; the file\'s name is taken, unless {beside.name} has "exhibit"'
        raise VectorError(f"{path}: {error}{how}") from None
    cases, bad = [], []
    for name, spec in described["cases"].items():
        if name not in arrays:
            bad.append(VectorError(f"{path}: case {name!r} of {beside.name} has no arrays"))
            continue
        try:
            cases.append(_case(path, owner, name, spec, arrays[name]))
        except VectorError as error:
            bad.append(error)
    for name in arrays.keys() - described["cases"].keys():
        bad.append(VectorError(f"{path}: case {name!r} is not described in {beside.name}"))
    return cases, bad


def _arrays(path: Path) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """case -> section -> name -> array."""
    out: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                parts = key.split("/")
                at = next((i for i, part in enumerate(parts) if i and part in SECTIONS), None)
                if at is None or at == len(parts) - 1:
                    raise VectorError(
                        f"{path}: array {key!r} is not named CASE/in|param|out|grad/NAME"
                    )
                try:
                    value = archive[key]
                except ValueError as error:
                    why = "is pickled; only plain arrays are read"
                    raise VectorError(
                        f"{path}: array {key!r} {why if 'pickle' in str(error) else error}"
                    ) from None
                if value.dtype.kind not in "fiubUS":
                    raise VectorError(
                        f"{path}: array {key!r} has dtype {value.dtype}; expected numbers, bool or text"
                    )
                sections = out.setdefault("/".join(parts[:at]), {s: {} for s in SECTIONS})
                native = value.astype(value.dtype.newbyteorder("="), copy=False)
                sections[parts[at]]["/".join(parts[at + 1 :])] = native
    except VectorError:
        raise
    except UNREADABLE as error:
        raise VectorError(f"{path}: not a readable npz file ({error})") from None
    return out


def _case(
    path: Path, owner: Exhibit, name: str, spec: Any, arrays: dict[str, dict[str, np.ndarray]]
) -> Case:
    if not isinstance(spec, dict) or not isinstance(spec.get("operation"), str):
        raise VectorError(f'{path}: case {name!r} names no "operation"')
    _known(f"{path.with_suffix('.json')}: case {name!r}", spec, CASE_KEYS)
    try:
        op = owner.operation(spec["operation"])
        said = {k: v for k, v in spec.items() if v is not None}  # null is what is left out
        rules, loss = dict(said.get("compare", {})), dict(said.get("loss", {}))
        grad_of = dict(said.get("grad_of", {}))
        _known(f"{path.with_suffix('.json')}: case {name!r}: loss", loss, LOSS_KEYS)
        # one table for all cases may name what this one does not store, but nothing unheard of
        for output in rules:
            declared(op.results, output)
        for source in grad_of.values():
            declared(op.arguments, str(source).split("/", 1)[-1])
        for output, rule in rules.items():
            if rule not in COMPARE:
                raise VectorError(
                    f"{path}: case {name!r}: compare {output}: {rule!r} is none of {', '.join(COMPARE)}"
                )
        case = Case(
            name=name,
            exhibit=owner.name,
            operation=op.name,
            options=dict(said.get("options", {})),
            arrays=arrays,
            loss=loss,
            grad_of=grad_of,
            compare=rules,
            rtol=float(said.get("rtol", 1e-9)),
            atol=float(said.get("atol", 1e-11)),
            note=str(said.get("note", "")),
        )
        for key, value in (("rtol", case.rtol), ("atol", case.atol)):
            if not 0 <= value < np.inf:
                raise InputError(f"{key} must be a number from 0 on, but is {value}")
        for array in case.cotangents.values():
            if array not in arrays["in"]:
                raise InputError(f"loss.cotangent names {array!r}, which is not stored under in/")
        case.arguments(op)
        case.loss_outputs(op)
        unflatten(op.results, arrays["out"])
    except InputError as error:
        raise VectorError(f"{path}: case {name!r}: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, VectorError):
            raise
        raise VectorError(f"{path}: case {name!r} is badly described ({error})") from None
    return case


def _known(where: str, table: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises VectorError for a key that would be ignored and looks like one that would not: a misspelt
    tolerance must not pass as none. Other keys are the file's own notes."""
    meant = {name: name for name in names}
    if "rtol" in meant:
        meant["tolerance"] = "rtol and atol"
    for key in table:
        near = difflib.get_close_matches(str(key), list(meant), n=1, cutoff=0.8)
        if key not in names and near:
            raise VectorError(f"{where}: unknown key {key!r}; did you mean {meant[near[0]]}?")


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


def mismatch(
    made: np.ndarray, stored: np.ndarray, rule: str, rtol: float, atol: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which elements are wrong, by how much, and how much is allowed, for arrays of one shape.

    NaN equals NaN. By "exact", and where `stored` is text, elements are equal or not (a gap of 0
    or 1); by "set" and "ties" the order along the last axis is free, and places are those of the
    sorted rows. What a card ranks ("ties" of a ranked output) is dealt with by `settle`.
    """
    if stored.dtype.kind not in "fiub" or rule == "exact":
        wrong = np.asarray(~((made == stored) | _both_nan(made, stored)))
        return wrong, wrong.astype(float), np.zeros(stored.shape)
    if rule in ("set", "ties"):
        made, stored = np.sort(made, axis=-1), np.sort(stored, axis=-1)
    a, b = made.astype(np.float64), stored.astype(np.float64)
    same = (a == b) | _both_nan(a, b)
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    bound = atol + rtol * np.abs(np.where(np.isfinite(b), b, 0.0))
    return ~(gap <= bound), gap, bound


def settle(
    ranks: Any, arguments: Mapping[str, Any], got: np.ndarray, value: np.ndarray, free: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both tables of indices with ties in one order, where their rows are ranked alike: what is
    then left to compare is exact."""
    scores = ranks(arguments, value)
    if not np.allclose(ranks(arguments, got), scores, free, free):
        return got, value
    return _canonical(got, scores, free), _canonical(value, scores, free)


def _canonical(rows: np.ndarray, scores: np.ndarray, free: float) -> np.ndarray:
    """Rows of indices (..., P, w) whose scores (..., P) fall; among equals the lower indices first."""
    with np.errstate(invalid="ignore"):  # padding has score -inf
        group = np.cumsum(np.abs(np.diff(scores, axis=-1, prepend=scores[..., :1])) > free, axis=-1)
    columns = [rows[..., i] for i in reversed(range(rows.shape[-1]))]
    order = np.lexsort((*columns, group), axis=-1)
    return np.take_along_axis(rows, order[..., None], axis=-2)


def _both_nan(a: np.ndarray, b: np.ndarray) -> Any:
    return (
        np.isnan(a) & np.isnan(b)
        if a.dtype.kind == b.dtype.kind == "f"
        else np.zeros(b.shape, bool)
    )


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
    cases, bad = _cases(Path(path), exhibit)
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
            found, _ = _cases(Path(path), exhibit)
            cases += sum("cuda" in backends_for(case) for case in found)
        except VectorError:
            continue
    return f"not run on hardware: {cases} cases of the cuda paths ({why})" if cases else ""
