"""The synthetic tasks: every label follows from the inputs by the rule that the docstring states."""

import itertools

import numpy as np
import pytest

from attnlab.datasets import synthetic as s


def rng():
    return np.random.default_rng(7)


def test_same_seed_same_data():
    for make in (
        lambda r: s.periodic(r, 4, 32),
        lambda r: s.ring_retrieval(r, 4),
        lambda r: s.mqar(r, 4),
        lambda r: s.associative_recall(r, 4),
        lambda r: s.convex_hulls(r, 4, 6),
    ):
        for a, b in zip(make(rng()), make(rng())):
            np.testing.assert_array_equal(a, b)


def test_periodic():
    inputs, labels = s.periodic(rng(), 5, 32, period=7, symbols=12)
    assert inputs.shape == labels.shape == (5, 32)
    assert (labels[:, :6] == s.IGNORED).all()
    np.testing.assert_array_equal(labels[:, 6:], inputs[:, : 32 - 6])


def test_ring_retrieval():
    inputs, labels = s.ring_retrieval(rng(), 3)
    for row, at in itertools.product(range(3), range(16)):
        step = (1, 2, 3, 5)[inputs[row, at] // 6]
        assert labels[row, at] == inputs[row, (at - step) % 16] % 6


@pytest.mark.parametrize("filled", [False, True])
def test_mqar(filled):
    inputs, labels = s.mqar(rng(), 20, vocabulary=40, n=32, pairs=6, random_filler=filled)
    for x, y in zip(inputs, labels):
        value = dict(zip(x[0:12:2].tolist(), x[1:12:2].tolist()))
        assert len(value) == 6
        assert len(set(value.values())) == 6
        assert max(value) < 20 <= min(value.values())
        asked = np.flatnonzero(y != s.IGNORED)
        assert len(asked) == 6
        assert (asked >= 12).all()
        assert (asked % 2 == 0).all()
        assert sorted(x[asked]) == sorted(value)
        assert all(value[x[i]] == y[i] for i in asked)


def test_mqar_draws_short_gaps_more_often():
    _, labels = s.mqar(rng(), 500, n=96, pairs=4, power=0.01)
    at = np.nonzero(labels != s.IGNORED)[1]
    gap = (at - 8) // 2
    assert (gap < 8).mean() > 2 * (gap >= 22).mean()


def test_associative_recall():
    inputs, labels = s.associative_recall(rng(), 20, n=64, pairs=5)
    for x, y in zip(inputs, labels):
        asked = np.flatnonzero(y != s.IGNORED)
        assert len(asked) == 5
        for at in asked:
            (written,) = np.flatnonzero(x[:32] == x[at])
            assert x[written + 1] == y[at]
            assert at - written >= 16


def test_needle_and_clusters():
    query, keys, place = s.needle(rng(), 500)
    assert (keys @ query).argmax() == place
    assert np.linalg.norm(query) == pytest.approx(32**0.5)
    q, k, cluster = s.clustered(rng(), 256, centres=16)
    same = cluster[:, None] == cluster
    assert (q @ k.T)[same].mean() > (q @ k.T)[~same].mean() + 8
    assert np.bincount(cluster).tolist() == [16] * 16


@pytest.mark.parametrize("n", [3, 6, 20])
def test_convex_hulls_against_scipy(n):
    from scipy.spatial import ConvexHull

    sets = s.convex_hulls(rng(), 50, n)
    for points, target, length in zip(*sets):
        corners = ConvexHull(points).vertices  # counter-clockwise
        corners = np.roll(corners, -corners.argmin()) + 1
        assert target[:length].tolist() == [*corners, corners[0], 0]
        assert (target[length:] == -1).all()


def test_shortest_tours_against_all_orders():
    sets = s.shortest_tours(rng(), 10, 6)
    for points, target in zip(sets.points, sets.target):

        def length(tour, points=points):
            return np.linalg.norm(np.diff(points[list(tour)], axis=0), axis=1).sum()

        tours = [(0, *order, 0) for order in itertools.permutations(range(1, 6))]
        assert target[-1] == 0
        assert length(target[:-1] - 1) == pytest.approx(min(length(t) for t in tours))
        assert target[1] < target[-3]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="room for 2 queries"):
        s.mqar(rng(), 1, n=20, pairs=8)
    with pytest.raises(ValueError, match="has 4 keys"):
        s.mqar(rng(), 1, vocabulary=10, n=48, pairs=8)
    with pytest.raises(ValueError, match="room for"):
        s.associative_recall(rng(), 1, n=16, pairs=8)
    with pytest.raises(ValueError, match="at least 3 points"):
        s.convex_hulls(rng(), 1, 2)
    with pytest.raises(ValueError, match="3 to 9 points"):
        s.shortest_tours(rng(), 1, 12)


def test_polar_words_are_labelled_by_their_count():
    task = s.polar_words(rng(), 500)
    lengths = task.mask.sum(1)
    assert lengths.min() == 8
    assert lengths.max() == 20
    assert not task.tokens[~task.mask].any()
    for tokens, mask, label in zip(*task):
        words = tokens[mask]
        balance = (words < 20).sum() - ((words >= 20) & (words < 40)).sum()
        assert balance != 0
        assert label == (balance > 0)
    assert 0.4 < task.labels.mean() < 0.6
    assert task.tokens.max() == 199
    again = s.polar_words(rng(), 500)
    np.testing.assert_array_equal(task.tokens, again.tokens)
