"""Files that are no test vectors: `vectors.read` says what is wrong with each."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab.vectors import VectorError, read


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exhibit": 7}, '"exhibit" must be a name, but is 7'),
        ({"exhibit": ["attention"]}, '"exhibit" must be a name'),
        ({"exhibit": None}, "the file's name is taken, unless mine.json has"),
        ({"case": {"rtol": -1}}, "case 'one': rtol must be a number from 0 on, but is -1"),
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
