"""Plane geometry of the pointer network's tasks: hulls, shortest tours, triangulations, polygons.

Indices here count from 0. All arithmetic is float64.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import Delaunay

Points = Float[np.ndarray, "n 2"]
Indices = Int[np.ndarray, "m"]


def orient(a: Points, b: Points, c: Points) -> float:
    """Twice the signed area of abc: positive where they turn left."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def distinct(points: Points) -> Indices:
    """The lowest index of every distinct point, sorted by x, then y."""
    order = np.lexsort((np.arange(len(points)), points[:, 1], points[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(points[order], axis=0) != 0).any(axis=1)
    return order[new]


def hull(points: Points) -> Indices:
    """Counter-clockwise corners, the lowest index first (monotone chain)."""
    order = distinct(points)
    corners: list[int] = []
    for sweep in (order, order[::-1]):  # the lower chain, then the upper
        base = len(corners)
        for i in sweep:
            while len(corners) >= base + 2 and (
                orient(points[corners[-2]], points[corners[-1]], points[i]) <= 0
            ):
                corners.pop()
            corners.append(int(i))
        corners.pop()  # the next chain begins with it
    return np.roll(corners, -int(np.argmin(corners)))


def tour(points: Points) -> Indices:
    """The shortest closed tour from point 0, second < last, by dynamic programming.

    Held and Karp (1962): best[S, j] is the shortest way from 0 through all of S that ends in j.
    Sets are bit masks over the points 1 to n-1; time n^2 2^n, memory n 2^n.
    """
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    m = len(points) - 1
    sets = np.arange(2**m)
    size = sum((sets >> j) & 1 for j in range(m))
    best = np.full((2**m, m), np.inf)
    best[1 << np.arange(m), np.arange(m)] = distance[0, 1:]
    for count in range(2, m + 1):
        for j in range(m):
            S = sets[(size == count) & ((sets >> j) & 1 == 1)]
            best[S, j] = (best[S ^ (1 << j)] + distance[1:, j + 1]).min(axis=1)

    S, to, way = 2**m - 1, 0, []
    for _ in range(m):  # backwards: which point came before `to`?
        j = int(np.argmin(best[S] + distance[1:, to]))
        way.append(j + 1)
        S, to = S ^ (1 << j), j + 1
    return np.array([0, *(way if way[0] < way[-1] else way[::-1])])


def triangles(points: Points) -> Int[np.ndarray, "t 3"]:
    """Delaunay triangles as increasing triples, sorted by incenter (x, then y)."""
    kept = distinct(points)
    found = np.sort(kept[Delaunay(points[kept]).simplices], axis=1)
    corners = points[found]  # (t, corner, 2)
    sides = np.linalg.norm(corners[:, [1, 2, 0]] - corners[:, [2, 0, 1]], axis=-1)  # opposite
    incenter = (sides[..., None] * corners).sum(axis=1) / sides.sum(axis=1, keepdims=True)
    return found[np.lexsort((incenter[:, 1], incenter[:, 0]))]


def area(polygon: Points) -> float:
    """Signed area of a polygon, positive counter-clockwise (shoelace formula)."""
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def is_simple(polygon: Points) -> bool:
    """Whether a polygon has three corners or more and no two edges meet but at a shared corner."""
    n = len(polygon)
    edges = [(polygon[i], polygon[(i + 1) % n]) for i in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            (a, b), (c, d) = edges[i], edges[j]
            if j == i + 1 or (i == 0 and j == n - 1):  # neighbours may not fold back
                corner, p, q = (b, a, d) if j == i + 1 else (a, b, c)
                if orient(corner, p, q) == 0 and np.dot(p - corner, q - corner) >= 0:
                    return False
            elif meet(a, b, c, d):
                return False
    return n >= 3


def meet(a: Points, b: Points, c: Points, d: Points) -> bool:
    """Whether the closed segments ab and cd share a point."""
    sides = [np.sign(orient(*t)) for t in ((a, b, c), (a, b, d), (c, d, a), (c, d, b))]
    if sides[0] != sides[1] and sides[2] != sides[3]:
        return True
    on_segment = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(
        side == 0 and (np.minimum(p, q) <= r).all() and (r <= np.maximum(p, q)).all()
        for side, (p, q, r) in zip(sides, on_segment)
    )
