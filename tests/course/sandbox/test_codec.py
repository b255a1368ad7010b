"""Trees of arrays on the wire: what travels comes back the same, what is odd is refused."""

from __future__ import annotations

import io
import zipfile
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attnlab.course.inside import codec

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | hnp.arrays(
        st.sampled_from(["f4", "f8", "i8", "u2", "?", "c16", "U3"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        fill=st.nothing(),
    )
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def sent(value: Any) -> Any:
    """The value after a journey."""
    arrays: list[np.ndarray] = []
    data = codec.frame({"value": codec.encode(value, arrays)}, arrays)
    header, archive = codec.prefix(data[: codec.PREFIX.size], 1 << 30)
    rest = data[codec.PREFIX.size :]
    assert len(rest) == header + archive
    node = codec.parse(rest[:header])["value"]
    return codec.decode(node, codec.unpack(rest[header:]))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@given(trees)
def test_what_travels_comes_back(value: Any) -> None:
    assert same(sent(value), value)


def test_order_scalars_and_named_tuples() -> None:
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert sent(fortran).flags.f_contiguous
    assert type(sent(np.float32(3))) is np.float32
    pair = namedtuple("pair", "out weights")
    np.testing.assert_equal(sent(pair(np.ones(2), None)), {"out": np.ones(2), "weights": None})
    np.testing.assert_array_equal(sent(np.arange(10)[::-3]), np.arange(10)[::-3])


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"x", np.array([None]), np.zeros(2, "f8,i4"), np.datetime64("2020-01-01"),
     {(1,): 2}, 1 << 300, lambda: 0],
)  # fmt: skip
def test_what_cannot_travel_is_named(value: Any) -> None:
    with pytest.raises(codec.Malformed, match=r"type|dtype|bits|key"):
        codec.encode({"out": value}, [])


@pytest.mark.parametrize(
    "value",
    [
        ["x" * 100_000, *[""] * 1000],
        ["x" * 100_000, np.zeros(1000)],
        [np.array("x" * 100_000), *[np.array("")] * 1000],
        [np.zeros((1 << 20,), "c16"), *[np.zeros((1 << 20,), "?")] * 16],
    ],
)
def test_lists_that_unfold_into_far_more_are_refused(value: Any) -> None:
    with pytest.raises(codec.Malformed, match="too unlike"):
        sent(value)


def test_texts_of_one_kind_travel() -> None:
    words = ["a word"] * 10_000
    assert sent({"words": words, "scores": np.zeros(100_000)})["words"] == words


def test_an_array_stands_in_one_place() -> None:
    with pytest.raises(codec.Malformed, match="two places"):
        codec.decode(["l", [["a", 0, "array"], ["a", 0, "array"]]], [np.zeros(2)])


@pytest.mark.parametrize("key", ["x" * 101, 10**200])
def test_long_keys_are_refused(key: Any) -> None:
    with pytest.raises(codec.Malformed, match="key of more than 100"):
        sent({key: [1, 2]})
    with pytest.raises(codec.Malformed, match="key of more than 100"):
        codec.decode(["d", [[key, ["v", 1]]]], [])


def test_depth_and_number_are_bounded() -> None:
    deep: Any = 1
    for _ in range(codec.DEPTH + 2):
        deep = [deep]
    with pytest.raises(codec.Malformed, match="deeply"):
        codec.encode(deep, [])
    with pytest.raises(codec.Malformed, match="many parts"):
        codec.encode([0] * (codec.NODES + 1), [])


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return out.getvalue()


def npy(descr: str = "<f8", shape: tuple[int, ...] = (2,), data: bytes = bytes(16)) -> bytes:
    out = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + data


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        archive({"0.npy": npy()})[:-30],
        archive({"0.npy": bytes(1 << 20)}, zipfile.ZIP_DEFLATED),
        archive({"x.npy": npy()}),
        archive({"0.npy": npy(), "2.npy": npy()}),
        archive({"0.npy": b"\x93NUMPY"}),
        archive({"0.npy": npy(shape=(3,))}),
        archive({"0.npy": npy(shape=(-1, -2))}),
        archive({"0.npy": npy(shape=(1 << 50, 1 << 50))}),
        archive({"0.npy": npy("|O", (2,))}),
        archive({"0.npy": npy("|V8", (2,))}),
        archive({"0.npy": npy("<U0", (1 << 40,), b"")}),
        archive({"0.npy": npy("<M8[s]", (2,))}),
        archive({"0.npy": npy("(")}),
        archive({"0.npy": npy("<U1", (2,), b"\xff" * 8)}),
        archive({"0.npy": npy(">U1", (1,), b"\xff\x00\x00\x00")}),
        archive({f"{i}.npy": npy() for i in range(20_000)}),
        archive({"0.npy": b"cos\nsystem\n(S'true'\ntR."}),
    ],
)
def test_broken_archives_are_refused(data: bytes) -> None:
    with pytest.raises(codec.Malformed):
        codec.unpack(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_frames_are_refused_or_read(data: st.DataObject) -> None:
    """Whatever bytes change, only Malformed is raised."""
    arrays: list[np.ndarray] = []
    node = codec.encode({"out": np.arange(6.0), "k": [np.ones(2, "i4"), "text"]}, arrays)
    frame = bytearray(codec.frame({"value": node}, arrays))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        header, _ = codec.prefix(bytes(frame[: codec.PREFIX.size]), 1 << 20)
        rest = bytes(frame[codec.PREFIX.size :])
        told = codec.parse(rest[:header])
        codec.decode(told.get("value"), codec.unpack(rest[header:]))
    except codec.Malformed:
        pass


@pytest.mark.parametrize(
    "node",
    [None, [], ["a"], ["a", 5, "array"], ["a", -1, "array"], ["a", 0, "x"], ["a", True, "array"],
     ["v", []], ["d", [["x"]]], ["d", {"x": 1}], ["d", [[None, ["v", 1]]]], ["v", 1 << 300],
     ["v", "\ud800"], ["d", [["\ud800", ["v", 1]]]], ["l", 3], ["z", 1], {"a": 0}],
)  # fmt: skip
def test_odd_nodes_are_refused(node: Any) -> None:
    with pytest.raises(codec.Malformed):
        codec.decode(node, [np.ones(1)])
