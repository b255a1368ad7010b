"""Plane geometry in float64: hulls, shortest tours, simple polygons. Indices count from 0.

Signs of areas decide, so nothing here may be reassociated or fused: fast maths is off.
"""

import numpy as np

from attnlab.kernels.cpu.runtime import block


@block(fastmath=False)
def orient(points, a, b, c):
    """Twice the signed area of the triangle abc: positive where it turns left."""
    ax, ay = points[a, 0], points[a, 1]
    return (points[b, 0] - ax) * (points[c, 1] - ay) - (points[b, 1] - ay) * (points[c, 0] - ax)


@block(fastmath=False)
def before(points, i, j):
    """Whether point i comes before j by x, then y, then index."""
    if points[i, 0] != points[j, 0]:
        return points[i, 0] < points[j, 0]
    if points[i, 1] != points[j, 1]:
        return points[i, 1] < points[j, 1]
    return i < j


@block(fastmath=False)
def hull(points, corners):
    """corners <- the hull, counter-clockwise, lowest index first; returns how many there are.

    points (n, 2), not all on one line; of equal points the lowest index stands; corners (2n,).
    """
    n = points.shape[0]
    order = np.empty(n, np.int64)
    count = 0
    for i in range(n):  # insertion sort without repeated points
        place = count
        repeated = False
        while place > 0 and before(points, i, order[place - 1]):
            place -= 1
        if place > 0:
            near = order[place - 1]
            repeated = points[near, 0] == points[i, 0] and points[near, 1] == points[i, 1]
        if repeated:
            continue
        for s in range(count, place, -1):
            order[s] = order[s - 1]
        order[place] = i
        count += 1
    size = 0
    for sweep in range(2):  # the lower chain, then the upper
        base = size
        for s in range(count):
            i = order[s] if sweep == 0 else order[count - 1 - s]
            while size >= base + 2 and orient(points, corners[size - 2], corners[size - 1], i) <= 0:
                size -= 1
            corners[size] = i
            size += 1
        size -= 1  # the next chain begins with its last
    lowest = 0
    for s in range(size):
        lowest = s if corners[s] < corners[lowest] else lowest
    for s in range(size):
        order[s] = corners[(s + lowest) % size]
    for s in range(size):
        corners[s] = order[s]
    return size


@block(fastmath=False)
def tour(points, way):
    """way (n,) <- the shortest closed tour from point 0, second < last; returns its length.

    Held and Karp's dynamic programme: best[S, j], the shortest way from 0 through the set S (a bit
    mask over points 1 to n-1) that ends in j. Time n^2 2^n, memory n 2^n.
    """
    n = points.shape[0]
    m = n - 1
    distance = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            dx, dy = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1]
            distance[i, j] = np.sqrt(dx * dx + dy * dy)
    best = np.full((1 << m, m), np.inf)
    for S in range(1, 1 << m):
        for j in range(m):
            if not S >> j & 1:
                continue
            rest = S ^ (1 << j)
            if rest == 0:
                best[S, j] = distance[0, j + 1]
                continue
            shortest = np.inf
            for i in range(m):  # sets without i have best = inf
                shortest = min(shortest, best[rest, i] + distance[i + 1, j + 1])
            best[S, j] = shortest
    S, to = (1 << m) - 1, 0
    way[0] = 0
    for step in range(m):
        least, last = np.inf, -1
        for i in range(m):
            length = best[S, i] + distance[i + 1, to]
            if length < least:
                least, last = length, i
        way[m - step] = last + 1
        S, to = S ^ (1 << last), last + 1
    if way[1] > way[m]:
        for s in range(m // 2):
            way[1 + s], way[m - s] = way[m - s], way[1 + s]
    total = 0.0
    for i in range(n):
        total += distance[way[i], way[(i + 1) % n]]
    return total


@block(fastmath=False)
def area(points, ring):
    """Signed area of the polygon with corners points[ring], positive counter-clockwise."""
    total = 0.0
    for s in range(ring.size):
        a, b = ring[s], ring[(s + 1) % ring.size]
        total += points[a, 0] * points[b, 1] - points[b, 0] * points[a, 1]
    return total / 2


@block(fastmath=False)
def on_segment(points, a, b, c):
    """Whether c, on the line ab, lies between a and b."""
    inside = True
    for d in range(2):
        low, high = min(points[a, d], points[b, d]), max(points[a, d], points[b, d])
        inside = inside and low <= points[c, d] and points[c, d] <= high
    return inside


@block(fastmath=False)
def crosses(first, second):
    """Whether two signed areas differ in sign, 0 being a sign of its own."""
    return (first > 0) != (second > 0) or (first < 0) != (second < 0)


@block(fastmath=False)
def meet(points, a, b, c, d):
    """Whether the closed segments ab and cd share a point."""
    abc, abd = orient(points, a, b, c), orient(points, a, b, d)
    cda, cdb = orient(points, c, d, a), orient(points, c, d, b)
    return (
        (crosses(abc, abd) and crosses(cda, cdb))
        or (abc == 0 and on_segment(points, a, b, c))
        or (abd == 0 and on_segment(points, a, b, d))
        or (cda == 0 and on_segment(points, c, d, a))
        or (cdb == 0 and on_segment(points, c, d, b))
    )


@block(fastmath=False)
def folds_back(points, p, corner, q):
    """Whether the edges from corner to p and to q point the same way (or one has no length)."""
    if orient(points, corner, p, q) != 0:
        return False
    inner = 0.0
    for d in range(2):
        inner += (points[p, d] - points[corner, d]) * (points[q, d] - points[corner, d])
    return inner >= 0


@block(fastmath=False)
def is_simple(points, ring):
    """Whether the polygon has three corners or more and no edges meet but at a shared corner."""
    n = ring.size
    for i in range(n):
        a, b = ring[i], ring[(i + 1) % n]
        for j in range(i + 1, n):
            c, d = ring[j], ring[(j + 1) % n]
            if j == i + 1:
                if folds_back(points, a, b, d):
                    return False
            elif i == 0 and j == n - 1:
                if folds_back(points, b, a, c):
                    return False
            elif meet(points, a, b, c, d):
                return False
    return n >= 3
