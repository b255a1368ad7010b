"""Every case of tests/golden on every path, gradients included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab.contract import BackendUnavailable
from attnlab.registry import find
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


def test_whole_numbers_may_be_stored_as_integers() -> None:
    case = next(c for c in CASES if (c.exhibit, c.name) == ("disagreement", "corr_ties"))
    whole = {name: array.astype(np.int32) for name, array in case.arrays["in"].items()}
    assert all(row.ok for row in hold(replace(case, arrays=case.arrays | {"in": whole}), "numpy"))
    case = next(c for c in CASES if (c.exhibit, c.name) == ("retrieval_heads", "head_masking"))
    none = case.arrays["in"] | {"block_heads": np.array([])}  # NumPy makes an empty list floats
    plain = {
        f"{k}_{m}": case.arrays["out"][f"{k}_plain"]
        for k in ("out", "weights")
        for m in ("plain", "masked")
    }
    case = replace(case, arrays=case.arrays | {"in": none, "out": plain})
    assert all(row.ok for row in hold(case, "torch"))


def test_ties_are_free_and_everything_else_is_not() -> None:
    """Pairs of words of one cosine come in any order; a pair of another cosine, or reversed, fails."""
    case = next(c for c in CASES if (c.exhibit, c.name) == ("instruction_shift", "patterns"))
    static = case.arrays["in"]["static_embed"].copy()
    static[34:] = static[:6]  # twins
    inputs = case.arrays["in"] | {"static_embed": static}
    options = case.options | {"top_k": 40}
    case = replace(case, options=options, arrays=case.arrays | {"in": inputs})
    op = find(case.exhibit).operation(case.operation)
    made = find(case.exhibit).run(op.name, backend="numpy", **case.arguments(op))
    pairs = made.head[1]["pairs_k_q"]
    unit = static / np.linalg.norm(static, axis=1, keepdims=True)
    cosines = np.where(pairs[..., 0] < 0, -9, (unit[pairs[..., 0]] * unit[pairs[..., 1]]).sum(-1))
    tied = np.argwhere((abs(np.diff(cosines)) < 1e-9) & (cosines[:, 1:] > -9))
    apart = np.argwhere((abs(np.diff(cosines)) > 1e-6) & (cosines[:, 1:] > -9))
    assert len(tied)
    assert len(apart)

    def passes(stored: np.ndarray) -> bool:
        outputs = {"head1_pairs_k_q": stored}
        return all(
            row.ok
            for backend in ("numpy", "numba", "torch")
            for row in hold(replace(case, arrays=case.arrays | {"out": outputs}), backend)
        )

    for (row, place), allowed in ((tied[0], True), (apart[0], False)):
        stored = pairs.copy()
        stored[row, [place, place + 1]] = pairs[row, [place + 1, place]]
        assert passes(stored) == allowed
    assert not passes(np.where(pairs[..., :1] < 0, pairs, pairs[..., ::-1]))


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


@pytest.mark.parametrize(
    ("place", "key", "says"),
    [
        ((), "exhibt", "unknown key 'exhibt'; did you mean exhibit"),
        (("cases", "one"), "rtoll", "case 'one': unknown key 'rtoll'; did you mean rtol"),
        (("cases", "one"), "tolerence", "unknown key 'tolerence'; did you mean rtol and atol?"),
        (("cases", "one"), "tolerance", "unknown key 'tolerance'; did you mean rtol and atol?"),
        (("cases", "one", "loss"), "cotangents", "loss: unknown key 'cotangents'; did you mean"),
        (("cases", "one", "compare"), "outt", "case 'one': 'outt' is no array of this operation"),
        (("cases", "one", "grad_of"), "q", "case 'one': '1' is no array of this operation"),
    ],
)
def test_what_a_file_says_in_vain_is_refused_by_name(
    tmp_path: Path, place: tuple[str, ...], key: str, says: str
) -> None:
    """A misspelt tolerance or rule must not pass as none at all."""
    q = np.ones((1, 1, 2, 2))
    arrays = {f"one/in/{name}": q for name in "qkv"} | {"one/out/out": q}
    np.savez(tmp_path / "mine.npz", **arrays)
    case: dict[str, Any] = {"operation": "attend", "loss": {}, "compare": {}, "grad_of": {}}
    described = {
        "exhibit": "attention",
        "cases": {"one": case | {"options": {}, "info": {"by": 1}}},
    }
    (tmp_path / "mine.json").write_text(json.dumps(described))
    assert [row.ok for row in hold(*read(tmp_path / "mine.npz"), "numpy")] == [True]
    inner: Any = described
    for step in place:
        inner = inner[step]
    inner[key] = "close" if place[-1:] == ("compare",) else 1
    (tmp_path / "mine.json").write_text(json.dumps(described))
    with pytest.raises(VectorError) as caught:
        read(tmp_path / "mine.npz")
    assert says in str(caught.value)
