"""How answers are compared, and what is told of a difference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attnlab.course.difference import compare, tell, veil
from attnlab.course.model import Difference

RTOL, ATOL = 1e-6, 1e-8


def differ(want: object, got: object, rule: str = "close") -> Difference | None:
    return compare({"out": want}, {"out": got}, RTOL, ATOL, {"out": rule})


def test_equal_within_the_tolerance() -> None:
    want = np.array([1.0, np.nan, np.inf, -np.inf, 0.0])
    assert differ(want, want * (1 + 1e-8)) is None
    assert differ(np.array(3), 3.0) is None
    assert differ(np.array([True, False]), np.array([1, 0])) is None
    assert differ(np.array(["a", "b"]), ["a", "b"]) is None
    assert differ(None, None) is None
    assert differ(np.zeros((0, 3)), np.zeros((0, 3))) is None


def test_where_and_how_far() -> None:
    want = np.arange(24.0).reshape(2, 3, 4)
    got = want.copy()
    got[0, 1, 2] += 0.5
    got[1, 2, 3] -= 2
    d = differ(want, got)
    assert d is not None
    assert (d.first, d.worst, d.wrong, d.size) == ((0, 1, 2), (1, 2, 3), 2, 24)
    assert (d.got, d.expected, d.error) == (6.5, 6.0, 2.0)
    assert d.tolerance == pytest.approx(ATOL + RTOL * 23)
    assert tell(d) == (
        "out at [0, 1, 2] is 6.5, expected 6; largest error 2 at [1, 2, 3]; 2 of 24 values differ"
    )


@pytest.mark.parametrize(
    ("want", "got"),
    [
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, np.nan]),
        ([1.0, np.inf], [1.0, -np.inf]),
        ([1.0, 2.0], [1.0, np.inf]),
        ([2**60, 1], [2**60 + 1, 1]),
        ([True, False], [True, True]),
        (["a", "b"], ["a", "c"]),
        ([1.0, 2.0], [1.0, 2.0 + 1e-5]),
    ],
)
def test_differences_are_plain_json(want: list, got: list) -> None:
    d = differ(np.array(want), np.array(got))
    assert d is not None
    assert d.wrong == 1
    json.dumps(d.__dict__, allow_nan=False)
    assert tell(d)
    assert tell(d, "actual-only")


def test_shapes_dtypes_and_members() -> None:
    zeros = np.zeros((2, 3))
    assert tell(differ(zeros, np.zeros((2, 4)))) == "out has shape (2, 4), expected (2, 3)"  # type: ignore[arg-type]
    assert "cannot hold" in tell(differ(zeros, np.zeros((2, 3), complex)))  # type: ignore[arg-type]
    assert differ(zeros, np.full((2, 3), "0")) is not None
    assert differ(zeros, [[0, 0, 0], [0, 0]]) is not None  # ragged
    assert differ(zeros, None) is not None
    assert differ(None, zeros) is not None
    assert differ(np.array(["a"]), np.array([1])) is not None
    missing = compare({"y0": zeros, "y1": zeros}, {"y0": zeros}, RTOL, ATOL)
    assert missing is not None
    assert "y1 was not returned" in tell(missing)
    extra = compare({"y0": zeros}, {"y0": zeros, "y1": zeros}, RTOL, ATOL)
    assert extra is not None
    assert "no such member" in tell(extra)


def test_rules_of_test_vectors() -> None:
    want = np.array([[3, 1, 2]])
    assert differ(want, np.array([[1, 2, 3]]), "set") is None
    assert differ(want, np.array([[1, 2, 4]]), "ties") is not None
    assert differ(want, np.array([[1, 2, 3]])) is not None
    assert differ(want, np.array([[9, 9, 9]]), "skip") is None
    assert differ(np.array([1.0]), np.array([1.0 + 1e-9]), "exact") is not None
    assert differ(np.array(1), np.array(1), "set") is None


def test_levels_of_detail_hide_what_they_promise() -> None:
    want = np.array([0.123456789, 7.654321])
    d = differ(want, np.array([0.5, 7.654321]))
    assert d is not None
    veiled = veil(d, "actual-only")
    assert veiled is not None
    assert veiled.expected is None
    assert veiled.got == 0.5
    assert veiled.error == 0.4  # roughly: the value less its error would be the answer
    assert veiled.tolerance is None  # a share of the expected value
    text = tell(d, "actual-only") + repr(veiled)
    assert "0.123" not in text
    assert "0.376" not in text
    assert veil(d, "full") == d
    assert veil(d, "none") is None
    assert tell(d, "none") == "wrong answer"
