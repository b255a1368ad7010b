"""Pointer networks: what is refused, what must work, exact searches, and geometry by definition."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise, permutations
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.mechanisms.dense.pointer_network.reference import allowed
from attnlab.registry import find

EXHIBIT = find("pointer_network")
PATHS = ["numpy", "numba", "torch"]


def run(operation: str, backend: str, **kwargs: Any) -> dict[str, np.ndarray]:
    made = EXHIBIT.run(operation, backend=backend, want="all", **kwargs)._asdict()
    return {k: np.asarray(v) for k, v in made.items() if v is not None}


def sample(operation: str, n: int, seed: int = 0, **sizes: Any) -> dict[str, Any]:
    return EXHIBIT.operation(operation).sample(n, seed, **sizes)


# --- pointing and the model ------------------------------------------------------------------


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("scored", [True, False])
def test_attend_score_by_score(backend: str, scored: bool) -> None:
    s = sample("attend", 6, batch=3, steps=4, scored=scored)
    made = run("attend", backend, **s)
    losses = []
    for b, t, j in np.ndindex(made["scores"].shape):
        real = t < s["dec_len"][b] and j < s["enc_len"][b]
        u = s["v"] @ np.tanh(s["enc"][b, j] @ s["W1"] + s["dec"][b, t] @ s["W2"]) if real else 0
        np.testing.assert_allclose(made["scores"][b, t, j], u, 1e-10, 1e-12)
    for b, t in np.ndindex(made["p"].shape[:2]):
        n = s["enc_len"][b] if t < s["dec_len"][b] else 0
        e = np.exp(made["scores"][b, t, :n])
        np.testing.assert_allclose(made["p"][b, t, :n], e / e.sum(), 1e-10)
        assert (made["p"][b, t, n:] == 0).all()
        if n and scored:
            losses.append(-np.log(e[s["target"][b, t]] / e.sum()))
    assert ("loss" in made) == scored
    if scored:
        np.testing.assert_allclose(made["loss"], np.mean(losses), 1e-10)


def test_padding_that_is_nan_reaches_no_gradient() -> None:
    torch = pytest.importorskip("torch")
    s = sample("attend", 6, seed=2, batch=3)

    def gradients() -> dict[str, np.ndarray]:
        t = {k: torch.from_numpy(v.copy()) for k, v in s.items()}
        floats = {k: v.requires_grad_() for k, v in t.items() if v.is_floating_point()}
        EXHIBIT.run("attend", backend="torch", **t).loss.backward()
        return {k: v.grad.numpy() for k, v in floats.items()}

    before = gradients()
    for b in range(3):
        s["enc"][b, s["enc_len"][b] :] = np.nan
        s["dec"][b, s["dec_len"][b] :] = np.nan
    assert np.isnan(s["enc"]).any()
    assert np.isnan(s["dec"]).any()
    for name, g in gradients().items():
        np.testing.assert_allclose(g, before[name], 1e-12, err_msg=name)


@pytest.mark.parametrize("backend", PATHS)
def test_one_slot_has_all_the_probability(backend: str) -> None:
    made = run("attend", backend, **sample("attend", 1, batch=1))
    assert made["p"] == 1
    assert made["loss"] == 0


@pytest.mark.parametrize("backend", PATHS)
def test_equal_inputs_are_pointed_at_by_position(backend: str) -> None:
    s = sample("attend", 5, batch=1, ragged=False)
    s["enc"][:, 3] = s["enc"][:, 1]
    p = run("attend", backend, **s)["p"]
    np.testing.assert_array_equal(p[..., 3], p[..., 1])


@pytest.mark.parametrize("backend", PATHS)
def test_items_do_not_see_each_other(backend: str) -> None:
    s = sample("forward", 7, batch=3)
    before = run("forward", backend, **s)["logits"]
    s["points"][0] = 0.5
    after = run("forward", backend, **s)["logits"]
    np.testing.assert_array_equal(after[1:], before[1:])
    assert (after[0] != before[0]).any()


@pytest.mark.parametrize("backend", PATHS)
def test_padding_is_not_read(backend: str) -> None:
    s = sample("forward", 7, seed=3, batch=3)
    before = run("forward", backend, **s)
    for b in range(3):
        s["points"][b, s["n"][b] :] = 1e3
        s["target"][b, s["target_len"][b] :] = 77
    s["target"] = np.pad(s["target"], ((0, 0), (0, 2)), constant_values=99)
    before["logits"] = np.pad(before["logits"], ((0, 0), (0, 2), (0, 0)))
    after = run("forward", backend, **s)
    np.testing.assert_allclose(after["logits"], before["logits"], 1e-12)
    np.testing.assert_allclose(after["loss"], before["loss"], 1e-12)


# --- decoding --------------------------------------------------------------------------------


def cheapest(s: dict[str, Any], b: int, task: str) -> list[int]:
    """The best of all sequences the task allows, each scored by the model's own logits."""
    n = int(s["n"][b])
    found: list[list[int]] = []

    def grow(tokens: list[int]) -> None:
        if 0 in tokens:
            found.append(tokens)
        else:
            for j in np.flatnonzero(allowed(tokens, n, task)):
                grow([*tokens, int(j)])

    grow([])
    weights = {k: v for k, v in s.items() if k not in ("points", "n", "task")}
    costs = []
    for tokens in found:
        logits = EXHIBIT.run(
            "forward",
            points=s["points"][b : b + 1],
            n=s["n"][b : b + 1],
            target=np.array([tokens]),
            target_len=np.array([len(tokens)]),
            **weights,
        ).logits[0]
        cost = 0.0
        for t, token in enumerate(tokens):
            open_ = allowed(tokens[:t], n, task)
            u = logits[t, : n + 1]
            cost += np.log(np.exp(u[open_]).sum()) - u[token]
        costs.append(cost)
    return found[int(np.argmin(costs))]


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("task", ["tsp", "hull"])
def test_beams_enough_find_the_cheapest_sequence(backend: str, task: str) -> None:
    s = sample("decode", 4, seed=5, batch=2, task=task)
    made = run("decode", backend, **s, beams=500)
    for b in range(2):
        want = cheapest(s, b, task)
        assert made["tokens"][b, : made["len"][b]].tolist() == want
        assert (made["tokens"][b, made["len"][b] :] == 0).all()


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("beams", [1, 2, 3, 7])
@pytest.mark.parametrize("task", ["tsp", "hull"])
def test_decoding_obeys_the_task(backend: str, task: str, beams: int) -> None:
    s = sample("decode", 9, seed=beams, batch=3, task=task)
    made = run("decode", backend, **s, beams=beams)
    for b, length in enumerate(made["len"]):
        tokens = made["tokens"][b, :length].tolist()
        assert tokens[-1] == 0
        assert length <= s["n"][b] + 2
        for t, token in enumerate(tokens):
            assert allowed(tokens[:t], int(s["n"][b]), task)[token]


@pytest.mark.parametrize("backend", PATHS)
def test_a_hull_may_end_in_two_ways(backend: str) -> None:
    """Seeds where a decoded hull closes at its first point, and where it stops without."""
    ends = set()
    for seed in range(12):
        s = sample("decode", 6, seed=seed, batch=1, task="hull")
        tokens = run("decode", backend, **s)["tokens"][0].tolist()
        ends.add(tokens[tokens.index(0) - 1] == tokens[0])
    assert ends == {True, False}


# --- geometry --------------------------------------------------------------------------------


def turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("n", [3, 4, 6, 8])
def test_geometry_by_definition(backend: str, n: int) -> None:
    s = sample("geometry", n, seed=n, batch=4, ragged=False)
    made = run("geometry", backend, **s)
    for b, P in enumerate(s["points"]):
        hull = made["hull"][b][made["hull"][b] > 0] - 1
        assert hull[0] == hull[-1] == hull.min()
        for i, j in pairwise(hull):  # every other point lies to the left of every edge
            assert all(turn(P[i], P[j], P[x]) > 0 for x in range(n) if x not in (i, j))

        def length(way: tuple[int, ...], P: np.ndarray = P) -> float:
            closed = [0, *way, 0]
            return sum(float(np.hypot(*(P[x] - P[y]))) for x, y in pairwise(closed))

        best = min((w for w in permutations(range(1, n)) if w[0] < w[-1] or n == 2), key=length)
        assert made["tour"][b].tolist() == [1, *(x + 1 for x in best), 1]
        np.testing.assert_allclose(made["tour_length"][b], length(best), 1e-12)

        triples = made["triangles"][b].reshape(-1, 3)
        triples = triples[triples[:, 0] > 0] - 1
        want = set()
        for i, j, k in combinations(range(n), 3):  # Delaunay: no point in the circumcircle
            rows = np.array(
                [
                    [*(P[x] - P[y]), *[((P[x] - P[y]) ** 2).sum()]]
                    for y in range(n)
                    for x in (i, j, k)
                ]
            )
            inside = np.linalg.det(rows.reshape(n, 3, 3)) * np.sign(turn(P[i], P[j], P[k])) > 1e-14
            if not inside.any():
                want.add((i, j, k))
        assert {tuple(t) for t in triples} == want
        centres = []
        for t in triples:
            sides = [np.linalg.norm(P[t[(c + 1) % 3]] - P[t[(c + 2) % 3]]) for c in range(3)]
            centres.append(tuple(np.average(P[t], axis=0, weights=sides)))
        assert centres == sorted(centres)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_measures_of_known_polygons(backend: str) -> None:
    square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2], [1, 1], [1, 0]])
    rows = {
        # pred: coverage, simple, the hull itself
        (1, 2, 3, 4, 1): (1.0, True, True),
        (1, 2, 3, 4): (1.0, True, True),
        (3, 4, 1, 2, 3): (1.0, True, True),
        (4, 3, 2, 1, 4): (1.0, True, False),  # the other direction
        (1, 3, 2, 4, 1): (0.0, False, False),  # a bow tie
        (1, 2, 5, 1): (0.25, True, False),
        (1, 6, 2, 3, 4, 1): (1.0, True, False),  # a corner on an edge
        (1, 2, 6, 3, 4, 1): (0.75, False, False),  # an edge that folds back
        (1, 2, 1): (0.0, False, False),
        (1,): (0.0, False, False),
        (): (0.0, False, False),
    }
    pred = np.zeros((len(rows), 7), int)
    for row, given in zip(pred, rows):
        row[: len(given)] = given
    points = np.repeat(square[None], len(rows), axis=0)
    made = run("geometry", backend, points=points, n=np.full(len(rows), 6), pred=pred)
    coverage, simple, same = zip(*rows.values())
    np.testing.assert_allclose(made["coverage"], coverage, 1e-12, 1e-12)
    assert made["is_simple"].tolist() == list(simple)
    np.testing.assert_allclose(made["polygon_accuracy"], np.mean(same))
    np.testing.assert_array_equal(made["hull_area"], 4.0)
    assert (made["hull"][:, :5] == [1, 2, 3, 4, 1]).all()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_equal_points_count_once(backend: str) -> None:
    corners = np.array([[0.0, 0], [1, 0], [0, 1.5], [1, 0], [0, 0]])
    made = run(
        "geometry", backend, points=corners[None], n=np.array([5]), pred=np.array([[1, 2, 3, 1]])
    )
    assert made["hull"][0].tolist() == [1, 2, 3, 1]
    assert made["triangles"][0].tolist() == [1, 2, 3]
    np.testing.assert_allclose(made["tour_length"], 2.5 + np.sqrt(3.25))
    assert made["polygon_accuracy"] == 1


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_tours_beyond_exhaustive_search(backend: str) -> None:
    """Points on a circle: the shortest tour goes round."""
    rng = np.random.default_rng(0)
    order = rng.permutation(13)
    angle = 2 * np.pi * order / 13
    points = np.stack([np.cos(angle), np.sin(angle)], -1)[None]
    made = run("geometry", backend, points=points, n=np.array([13]), pred=np.array([[1, 2, 3]]))
    np.testing.assert_allclose(made["tour_length"], 26 * np.sin(np.pi / 13))


# --- bad input -------------------------------------------------------------------------------


def _put(**change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda s: s | {k: f(s) for k, f in change.items()}


def _spoil(name: str, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def spoiled(s: dict[str, Any]) -> dict[str, Any]:
        s[name].flat[0] = value
        return s

    return spoiled


def _last(s: dict[str, Any], value: int) -> np.ndarray:
    target = s["target"].copy()
    target[0, s["target_len"][0] - 1] = value
    return target


REFUSED = {
    "attend: target beyond its slots": ("attend", _spoil("target", 9), "target must point"),
    "attend: negative target": ("attend", _spoil("target", -1), "target must point"),
    "attend: no slot": ("attend", _put(enc_len=lambda s: s["enc_len"] * 0), "enc_len"),
    "attend: more slots than there are": ("attend", _put(enc_len=lambda s: s["enc_len"] + 9), "enc_len"),
    "attend: no step": ("attend", _put(dec_len=lambda s: s["dec_len"] * 0), "dec_len"),
    "forward: no point": ("forward", _spoil("n", 0), "n must lie between"),
    "forward: more points than there are": ("forward", _spoil("n", 9), "n must lie between"),
    "forward: target above n": ("forward", _spoil("target", 9), "points 1 to n"),
    "forward: the end too early": ("forward", _spoil("target", 0), "points 1 to n"),
    "forward: missing end": ("forward", _put(target=lambda s: _last(s, 1)), "end with 0"),
    "forward: target_len 0": ("forward", _spoil("target_len", 0), "target_len"),
    "forward: a point that is not finite": ("forward", _spoil("points", np.nan), "points must be finite"),
    "decode: no point": ("decode", _spoil("n", 0), "n must lie between"),
    "decode: hull of two": ("decode", lambda s: _spoil("n", 2)(s) | {"task": "hull"}, "no hull"),
    "decode: no beam": ("decode", _put(beams=lambda s: 0), "beams must be at least 1"),
    "decode: other task": ("decode", _put(task=lambda s: "hul"), "did you mean hull"),
    "decode: infinite point": ("decode", _spoil("points", np.inf), "points must be finite"),
    "geometry: two points": ("geometry", _spoil("n", 2), "at least 3"),
    "geometry: on one line": ("geometry", _put(points=lambda s: s["points"][..., :1] * [1, 2]), "one line"),
    "geometry: all equal": ("geometry", _put(points=lambda s: s["points"] * 0), "one line"),
    "geometry: pred above n": ("geometry", _spoil("pred", 9), "pred must hold"),
    "geometry: pred below 0": ("geometry", _spoil("pred", -1), "pred must hold"),
    "geometry: infinite point": ("geometry", _spoil("points", np.inf), "points must be finite"),
    "geometry: too many for a tour": (
        "geometry",
        lambda s: {"points": np.random.default_rng(0).random((1, 21, 2)), "n": np.array([21]), "pred": np.array([[1, 2, 3]])},
        "at most 20",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "backend"),
    [(row, b) for row in REFUSED for b in PATHS if b in EXHIBIT.operation(REFUSED[row][0]).paths],
)
def test_refused(row: str, backend: str) -> None:
    operation, mutate, message = REFUSED[row]
    kwargs = {"ragged": False} if operation != "forward" else {}
    with pytest.raises(InputError, match=message):
        EXHIBIT.run(operation, backend=backend, **mutate(sample(operation, 5, **kwargs)))


def test_module_owns_the_weights() -> None:
    import torch

    layer = EXHIBIT.operation("forward").module(hidden=8)
    s = sample("forward", 6, dtype="float32")
    inputs = {k: torch.from_numpy(s[k]) for k in ("points", "n", "target", "target_len")}
    layer(**inputs).loss.backward()
    assert len(list(layer.parameters())) == 14
    assert all(p.grad is not None for p in layer.parameters())
