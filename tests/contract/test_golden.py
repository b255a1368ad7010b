"""Every case of tests/golden on every path, gradients included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attnlab.contract import BackendUnavailable
from attnlab.vectors import Case, VectorError, backends_for, hold, read

GOLDEN = Path(__file__).parent.parent / "golden"
CASES: list[Case] = []
UNREADABLE: list[str] = []
for path in sorted(GOLDEN.glob("*.npz")):
    try:
        CASES += read(path)
    except VectorError as error:  # one bad file must not hide the others
        UNREADABLE.append(str(error))


def test_all_files_are_readable() -> None:
    assert not UNREADABLE


@pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(c, b, id=f"{c.exhibit}.{c.name}-{b}")
        for c in CASES
        for b in backends_for(c)
        if b != "cuda"
    ],
)
def test_case(case: Case, backend: str) -> None:
    rows = hold(case, backend)
    assert rows
    assert not [r for r in rows if not r.ok]
    if backend == "torch":
        assert {f"grad {g}" for g in case.arrays["grad"]} <= {r.name for r in rows}


def test_a_loss_may_name_an_option_left_at_its_default() -> None:
    case = next(c for c in CASES if (c.exhibit, c.name) == ("attention_at", "attention_at"))
    assert case.options["lam_adv"] == 1.0  # the default
    rest = {k: v for k, v in case.options.items() if k != "lam_adv"}
    assert all(row.ok for row in hold(replace(case, options=rest), "torch"))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=f"{c.exhibit}.{c.name}") for c in CASES if "cuda" in backends_for(c)],
)
def test_case_on_gpu(case: Case) -> None:
    try:
        assert not [r for r in hold(case, "cuda") if not r.ok]
    except BackendUnavailable as why:
        pytest.skip(str(why))
