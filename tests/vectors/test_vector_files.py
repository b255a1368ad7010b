"""Test vectors that others write: what is taken as it comes, and what is wrong with the rest."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find
from attnlab.vectors import Case, Held, VectorError, hold, read, run


def pair(folder: Path, **changes: Any) -> Path:
    """A small pair of files, its description changed."""
    case = {"operation": "attend", "options": {}} | changes.pop("case", {})
    row = np.ones((1, 1, 2, 2))
    np.savez_compressed(
        folder / "mine.npz", **{f"one/{a}": row for a in ("in/q", "in/k", "in/v", "out/out")}
    )
    document = {"exhibit": "attention", "cases": {"one": case}} | changes
    (folder / "mine.json").write_text(json.dumps(document))
    return folder / "mine.npz"


def test_a_small_pair_is_read(tmp_path: Path) -> None:
    (case,) = read(pair(tmp_path))
    assert (case.exhibit, case.operation, case.rtol) == ("attention", "attend", 1e-9)


RNG = np.random.default_rng(0)
QKV = {f"in/{name}": RNG.standard_normal((1, 2, 3, 4)) for name in "qkv"}
MASK = np.array([[[[True, False, True]]]])


def written(
    folder: Path, arrays: dict[str, np.ndarray], name: str = "one", **case: Any
) -> Iterator[Held]:
    """Rows of a file with one case of attention, on the paths that need no compiling."""
    np.savez(folder / "mine.npz", **{f"{name}/{k}": v for k, v in arrays.items()})
    document = {"exhibit": "attention", "cases": {name: {"operation": "attend"} | case}}
    (folder / "mine.json").write_text(json.dumps(document))
    for backend in ("numpy", "torch"):
        yield from run(folder / "mine.npz", backend=backend)


def answer(**options: Any) -> dict[str, np.ndarray]:
    made = find("attention").run(**{k[3:]: v for k, v in QKV.items()}, **options)
    return QKV | {"out/out": made.out}


def halves() -> dict[str, np.ndarray]:
    """Every input in half precision, and the answer to what that leaves of it."""
    rough = {k: v.astype(np.float16) for k, v in QKV.items()}
    made = find("attention").run(**{k[3:]: v.astype(float) for k, v in rough.items()})
    return rough | {"out/out": made.out}


@pytest.mark.parametrize(
    ("arrays", "case"),
    [
        (answer(), {"options": None, "loss": None, "compare": None, "grad_of": None, "atol": None}),
        (answer(), {"options": {"scale": None, "causal": None}, "rtol": None}),
        (answer(scale=2), {"options": {"scale": 2}}),
        (answer(causal=True), {"options": {"causal": 1}}),
        (answer(scale=0.5) | {"in/scale": np.array(0.5), "param/causal": np.array(False)}, {}),
        (answer(), {"seed": 3, "made_by": "me", "shapes": {"q": [1]}, "info": [1]}),
        (answer(), {"compare": {"weights": "exact"}, "grad_of": {"dq": "in/q"}}),
        (answer(), {"name": "a/b [bold] c"}),
        ({k: np.asfortranarray(v) for k, v in answer().items()}, {}),
        ({k: v.astype(">f8") for k, v in answer().items()}, {}),
        (halves(), {"rtol": 1e-5, "atol": 1e-5}),
        (answer(mask=MASK) | {"in/mask": MASK}, {}),
    ],
)
def test_what_others_write_is_taken(
    tmp_path: Path, arrays: dict[str, np.ndarray], case: dict[str, Any]
) -> None:
    pytest.importorskip("torch")
    rows = list(written(tmp_path, arrays, **case))
    assert [(row.backend, row.name, row.ok) for row in rows] == [
        ("numpy", "out", True),
        ("torch", "out", True),
    ]


@pytest.mark.parametrize("loss", [{"cotangent": {"weights": "c"}}, {"formula": "sum(weights * c)"}])
def test_a_loss_may_be_of_an_output_that_is_not_stored(
    tmp_path: Path, loss: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    cotangent = RNG.standard_normal((1, 2, 3, 3))
    q = torch.from_numpy(QKV["in/q"].copy()).requires_grad_()
    others = {k: torch.from_numpy(QKV[f"in/{k}"]) for k in "kv"}
    made = find("attention").run(backend="torch", want=["weights"], q=q, **others)
    (made.weights * torch.from_numpy(cotangent)).sum().backward()
    arrays = answer() | {"in/c": cotangent, "grad/dq": q.grad.numpy()}
    rows = list(written(tmp_path, arrays, loss=loss, grad_of={"dq": "in/q"}))
    assert [(row.name, row.ok) for row in rows[1:]] == [("out", True), ("grad dq", True)]


def test_a_case_that_is_refused_or_breaks_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("worst", "bad", "good")
    arrays = {f"{name}/{k}": v for name in names for k, v in answer().items()}
    arrays["bad/in/k"] = np.ones((1, 2, 3, 5))
    arrays["worst/in/w"] = np.ones(3)
    np.savez(tmp_path / "attention.npz", **arrays)
    cases = {name: {"operation": "attend"} for name in names}
    (tmp_path / "attention.json").write_text(json.dumps({"cases": cases}))
    rows = run(tmp_path / "attention.npz", backend="numpy")
    good = next(rows)
    assert good.case == "good"
    assert good.ok
    with pytest.raises(InputError) as caught:
        next(rows)
    worst, bad = str(caught.value).split("; ")
    assert worst.startswith("case 'worst': 'w' is no array of this operation")
    assert bad.startswith("case 'bad': k: dimension dim is 5")

    def broken(case: Case, backend: str) -> list[Held]:
        if case.name == "bad":
            raise RuntimeError("no such kernel")
        return hold(case, backend)

    monkeypatch.setattr("attnlab.vectors.paths.hold", broken)
    rows = run(tmp_path / "attention.npz", backend="numpy")
    row = next(rows)
    assert (row.case, row.ok, row.detail) == ("bad", False, "RuntimeError: no such kernel")
    assert next(rows).ok


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exhibit": 7}, '"exhibit" must be a name, but is 7'),
        ({"exhibit": ["attention"]}, '"exhibit" must be a name'),
        ({"exhibit": None}, "the file's name is taken, unless mine.json has"),
        ({"case": {"rtol": -1}}, "case 'one': rtol must be a number from 0 on, but is -1"),
        ({"case": {"loss": {"output": "loss"}}}, "'loss' is no array of this operation"),
        ({"case": {"loss": {"sum": ["outt"]}}}, "'outt' is no array of this operation"),
        ({"case": {"grad_of": {"dq": "in/r"}}}, "'r' is no array of this operation"),
        ({"case": {"atol": float("nan")}}, "case 'one': atol must be a number from 0 on"),
        ({"case": {"operation": 3}}, "case 'one' names no \"operation\""),
        ({"case": {"operation": "atend"}}, r"did you mean attend\? \(it has attend\)"),
    ],
)
def test_a_bad_description_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(VectorError, match=message):
        read(pair(tmp_path, **changes))


def flipped(path: Path) -> None:
    """Damage inside the compressed data; the table of contents is whole."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("one/in/q.npy").header_offset
    data[place + 60 : place + 90] = bytes(30)
    path.write_bytes(data)


def huge(path: Path) -> None:
    """An array that says it has 10^14 numbers."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    q = members["one/in/q.npy"]
    members["one/in/q.npy"] = q.replace(
        b"(1, 1, 2, 2), }" + b" " * 13, b"(1, 1, 2, 10000000000000), }"
    )
    assert members["one/in/q.npy"] != q
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def encrypted(path: Path) -> None:
    """The flag of a password on every entry."""
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 8] |= 1
        at += 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flipped, huge, encrypted])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = pair(tmp_path)
    damage(path)
    with pytest.raises(VectorError, match=r"mine\.npz") as caught:
        read(path)
    assert "pickle" not in str(caught.value)
