"""Reading a pair of files, NAME.npz and NAME.json; whatever is odd in them has one clear line."""

from __future__ import annotations

import difflib
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.contract import Exhibit, InputError
from attnlab.flat import declared, unflatten
from attnlab.registry import find
from attnlab.vectors.case import Case, VectorError

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


def read(path: str | Path, exhibit: str | None = None) -> list[Case]:
    """The cases of NAME.npz and NAME.json. Raises VectorError with the file and the reason."""
    cases, bad = cases_of(Path(path), exhibit)
    if bad:
        raise bad[0]
    return cases


def cases_of(path: Path, exhibit: str | None) -> tuple[list[Case], list[VectorError]]:
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
