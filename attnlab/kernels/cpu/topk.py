"""The k largest of each row, and stable sorting of small integers.

Ties go to the lower index everywhere, so that results equal a stable sort and do not depend on
threads. NaN counts as the smallest value.
"""

from attnlab.kernels.cpu.runtime import block


@block
def _before(value, index, other, other_index):
    """Whether (value, index) comes before the other: larger first, then lower index; NaN last."""
    if value > other:
        return True
    if value < other:
        return False
    value_nan, other_nan = value != value, other != other
    if value_nan != other_nan:
        return other_nan
    return index < other_index


@block
def _sink(values, indices, at, size):
    """Restore the heap below `at`: every parent comes after its children, the last one on top."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        right = child + 1
        if right < size and _before(values[child], indices[child], values[right], indices[right]):
            child = right
        if _before(values[child], indices[child], values[at], indices[at]):
            return
        values[at], values[child] = values[child], values[at]
        indices[at], indices[child] = indices[child], indices[at]
        at = child


@block(fastmath=False)
def top_k(row, values, indices):
    """The k = values.size largest of a 1-D row (k <= row.size), largest first, and their indices.

    A heap of the k best so far: O(n + hits log k), nothing allocated.
    """
    k = values.size
    if k == 0:
        return
    for j in range(k):
        values[j], indices[j] = row[j], j
    for at in range(k // 2 - 1, -1, -1):
        _sink(values, indices, at, k)
    for j in range(k, row.size):
        if _before(row[j], j, values[0], indices[0]):
            values[0], indices[0] = row[j], j
            _sink(values, indices, 0, k)
    for last in range(k - 1, 0, -1):  # heap sort: the worst goes to the end
        values[0], values[last] = values[last], values[0]
        indices[0], indices[last] = indices[last], indices[0]
        _sink(values, indices, 0, last)


@block(fastmath=False)
def top_k_rows(x, values, indices):
    """`top_k` of each row of x (rows, n) into values, indices (rows, k)."""
    for i in range(x.shape[0]):
        top_k(x[i], values[i], indices[i])


@block(fastmath=False)
def top_k_columns(x, values, indices):
    """`top_k` of each column of x (n, columns) into values, indices (columns, k)."""
    for j in range(x.shape[1]):
        top_k(x[:, j], values[j], indices[j])


@block
def counting_argsort(keys, n_keys, order, offsets):
    """order <- the stable argsort of keys (n,), integers in [0, n_keys); O(n + n_keys).

    offsets (n_keys + 1,) <- where each key's elements begin in order; the last is n.
    """
    for x in range(n_keys + 1):
        offsets[x] = 0
    for i in range(keys.size):
        offsets[keys[i] + 1] += 1
    for x in range(n_keys):
        offsets[x + 1] += offsets[x]
    for i in range(keys.size):  # offsets[x] runs to the end of x, the beginning of x + 1 ...
        x = keys[i]
        order[offsets[x]] = i
        offsets[x] += 1
    for x in range(n_keys, 0, -1):  # ... and moves back to its own place
        offsets[x] = offsets[x - 1]
    offsets[0] = 0
