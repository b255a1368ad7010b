"""Mixture-of-head attention on the CPU: each head attends for the tokens that chose it, no others.

Tokens are listed by head; a tile of listed queries is gathered, meets all keys of its head with an
online softmax, is gated and written to its tokens' rows. What no token chose stays zero and costs
nothing. Routers are one product and a few operations a token.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt
from attnlab.kernels.cpu.flash import tile_sizes
from attnlab.kernels.cpu.product import linear
from attnlab.kernels.cpu.runtime import block, fetch_add, run_workers, single_threaded_blas, worker
from attnlab.kernels.cpu.softmax import finish, softmax_row, start, update

from . import EXHIBIT


@block
def choose(p, K, chosen):
    """chosen <- whether each of p is among the K largest, of equals the lower index first."""
    for e in range(p.size):
        chosen[e] = False
    for _ in range(K):
        best = -1
        for e in range(p.size):
            if not chosen[e] and (best < 0 or p[e] > p[best]):
                best = e
        chosen[best] = True


@worker
def route(logits, gates, p, chosen, S, K, tile, counter):
    """One worker's share of the gates: logits (rows, E + [S] + [2]) of W_r, W_s and W_h."""
    rows, E = p.shape
    weighs, both = S > 1, S > 0 and K > 0
    tiny = np.finfo(p.dtype).eps
    while True:
        begin = fetch_add(counter, tile)
        if begin >= rows:
            break
        for i in range(begin, min(begin + tile, rows)):
            for e in range(S):
                gates[i, e] = logits[i, E + e] if weighs else 1
            if weighs:
                softmax_row(gates[i, :S])
                for e in range(S):
                    gates[i, e] *= S
            if E > 0:
                for e in range(E):
                    p[i, e] = logits[i, e]
                softmax_row(p[i])
                choose(p[i], K, chosen[i])
            mass = p.dtype.type(0)
            for e in range(E):
                gates[i, S + e] = p[i, e] if chosen[i, e] else 0
                mass += gates[i, S + e]
            for e in range(E):
                gates[i, S + e] *= K / max(mass, tiny)
            if both:
                balance = logits[i, logits.shape[1] - 2 :]
                softmax_row(balance)
                for h in range(S + E):
                    gates[i, h] *= 2 * balance[0 if h < S else 1]


def two_stage(
    x: Float[np.ndarray, "batch n channels"],
    routers: list[np.ndarray | None],
    n_head: int,
    n_shared: int,
    top_k: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """See the reference; routers W_r, W_s, W_h, or None."""
    batch, n, _ = x.shape
    E, rows = n_head - n_shared, batch * n
    given = [W for W in routers if W is not None]
    logits = linear(x, np.concatenate(given)) if given else np.empty((rows, 0), x.dtype)
    gates = scratch.empty((rows, n_head), x.dtype)
    p, chosen = scratch.empty((rows, E), x.dtype), np.zeros((rows, E), bool)
    workers = None if rows * n_head > 2**13 else 1
    run_workers(
        route,
        *(logits.reshape(rows, -1), gates, p, chosen, n_shared, top_k),
        *(256, np.zeros(1, np.int64)),
        workers=workers,
    )
    aux = E * (chosen.mean(axis=0) * p.mean(axis=0)).sum() if top_k else None
    return gates.reshape(batch, n, n_head), None if aux is None else np.asarray(aux, x.dtype)


@worker
def project(x, W_qkv, b_qkv, q, kt, v, n_head, counter):
    """One worker's share of the projections: q, v (batch, n_head, n, head_dim), and the keys
    transposed in tiles, kt (batch, n_head, tiles, head_dim, columns)."""
    batch, n, _ = x.shape
    _, _, tiles, dim, columns = kt.shape
    put = np.zeros(2, x.dtype)
    put[0] = 1
    while True:
        item = fetch_add(counter, 1)  # heads apart: a short sequence is one tile
        if item >= batch * tiles * n_head:
            break
        h = item % n_head
        b, t = item // n_head // tiles, item // n_head % tiles
        j0, j1 = t * columns, min((t + 1) * columns, n)
        rows = x[b, j0:j1]
        of_q, of_k, of_v = h * dim, (n_head + h) * dim, (2 * n_head + h) * dim
        gemm_nt(put, rows, W_qkv[of_q : of_q + dim], q[b, h, j0:j1])
        gemm_nt(put, rows, W_qkv[of_v : of_v + dim], v[b, h, j0:j1])
        keys = kt[b, h, t, :, : j1 - j0]
        gemm_nt(put, W_qkv[of_k : of_k + dim], rows, keys)
        if b_qkv.size > 0:
            for d in range(dim):
                added = b_qkv[of_k + d]
                for j in range(j1 - j0):
                    keys[d, j] += added
            for j in range(j0, j1):
                for d in range(dim):
                    q[b, h, j, d] += b_qkv[of_q + d]
                    v[b, h, j, d] += b_qkv[of_v + d]


@worker
def attend_listed(q, kt, v, gates, index, count, mixed, heads, score, tile_q, counter):
    """One worker's share of attention: index[b, h, :count[b, h]] are the tokens that head h serves.

    mixed (batch, n, n_head, head_dim) takes gate * head; heads, unless empty, the head itself.
    """
    batch, n_head, n, dim = q.shape
    tiles_k, columns = kt.shape[2], kt.shape[4]
    tiles_q = (n + tile_q - 1) // tile_q
    accumulate = np.ones(2, q.dtype)
    s_tile = scratch.tile((tile_q, columns), q.dtype)
    gathered, outcome = scratch.tile((tile_q, dim), q.dtype), scratch.tile((tile_q, dim), q.dtype)
    running = scratch.tile((3, tile_q), q.dtype)
    while True:
        item = fetch_add(counter, 1)
        if item >= batch * n_head * tiles_q:
            break
        b, h = item // tiles_q // n_head, item // tiles_q % n_head
        i0 = item % tiles_q * tile_q
        rows = min(tile_q, count[b, h] - i0)
        if rows <= 0:
            continue
        listed = index[b, h, i0 : i0 + rows]
        queries, acc = gathered[:rows], outcome[:rows]
        m, l, lse = running[0, :rows], running[1, :rows], running[2, :rows]
        for i in range(rows):
            for d in range(dim):
                queries[i, d] = q[b, h, listed[i], d]
        start(m, l, acc)
        for t in range(tiles_k):
            j0, j1 = t * columns, min((t + 1) * columns, n)
            s = s_tile[:rows, : j1 - j0]
            gemm_nn(score, queries, kt[b, h, t, :, : j1 - j0], s)
            update(s, m, l, acc, v[b, h, j0:j1], accumulate)
        finish(m, l, acc, lse)
        for i in range(rows):
            token = listed[i]
            gate = gates[b, token, h]
            for d in range(dim):
                mixed[b, token, h, d] = gate * acc[i, d]
            if heads.size > 0:
                for d in range(dim):
                    heads[b, token, h, d] = acc[i, d]


def lists(served: Bool[np.ndarray, "batch n n_head"]) -> tuple[np.ndarray, np.ndarray]:
    """(index, count) of the tokens that each head serves, in order of position."""
    by_head = np.ascontiguousarray(served.transpose(0, 2, 1))  # (batch, n_head, n)
    count = by_head.sum(axis=2)
    index = np.zeros(by_head.shape, np.int64)
    b, h, token = np.nonzero(by_head)
    first = np.cumsum(count) - count.ravel()  # where each list begins among all
    place = np.arange(len(token)) - np.repeat(first, count.ravel())
    index[b, h, place] = token
    return index, count


@EXHIBIT.path
def gates(
    x: Float[np.ndarray, "batch n channels"],
    W_r: Float[np.ndarray, "routed channels"] | None = None,
    W_s: Float[np.ndarray, "n_shared channels"] | None = None,
    W_h: Float[np.ndarray, "2 channels"] | None = None,
    *,
    n_head: int,
    n_shared: int,
    top_k: int,
) -> dict[str, np.ndarray | None]:
    """See the reference."""
    made, aux = two_stage(x, [W_r, W_s, W_h], n_head, n_shared, top_k)
    return {"gates": made, "aux": aux}


@EXHIBIT.path
def attend(
    x: Float[np.ndarray, "batch n channels"],
    W_qkv: Float[np.ndarray, "3*n_head*head_dim channels"],
    b_qkv: Float[np.ndarray, "3*n_head*head_dim"] | None = None,
    *,
    W_o: Float[np.ndarray, "channels n_head*head_dim"],
    b_o: Float[np.ndarray, "channels"],
    W_r: Float[np.ndarray, "routed channels"] | None = None,
    W_s: Float[np.ndarray, "n_shared channels"] | None = None,
    W_h: Float[np.ndarray, "2 channels"] | None = None,
    n_head: int,
    n_shared: int,
    top_k: int,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. Where heads are asked for, every head serves every token."""
    batch, n, channels = x.shape
    dim = channels // n_head
    g, aux = two_stage(x, [W_r, W_s, W_h], n_head, n_shared, top_k)
    all_heads = "heads" in want
    index, count = lists(np.ones_like(g, bool) if all_heads else g != 0)
    tile_q, columns = tile_sizes(n, n, dim)
    q, v = scratch.empty((2, batch, n_head, n, dim), x.dtype)
    kt = scratch.empty((batch, n_head, -(-n // columns), dim, columns), x.dtype)
    mixed = np.zeros((batch, n, n_head, dim), x.dtype)
    heads = scratch.empty(mixed.shape if all_heads else (0, 0, 0, 0), x.dtype)
    workers = None if batch * n * channels * (n + channels) > 2**22 else 1
    with single_threaded_blas():
        run_workers(
            project,
            *(x, W_qkv, np.empty(0, x.dtype) if b_qkv is None else b_qkv),
            *(q, kt, v, n_head, np.zeros(1, np.int64)),
            workers=workers,
        )
        run_workers(
            attend_listed,
            *(q, kt, v, g, index, count, mixed, heads),
            np.array([dim**-0.5 if scale is None else scale, 0], x.dtype),
            *(tile_q, np.zeros(1, np.int64)),
            workers=workers,
        )
    y = linear(mixed.reshape(batch, n, channels), W_o)
    y += b_o
    return {"y": y, "gates": g, "heads": heads if all_heads else None, "aux": aux}


@worker
def route_by_norm(q, gates, scores, K, tile, counter):
    """One worker's share of the norm router: q (rows, heads, dim), scores (rows, E)."""
    rows, heads, dim = q.shape
    E = scores.shape[1]
    S = heads - E
    chosen = np.empty(E, np.bool_)
    while True:
        begin = fetch_add(counter, tile)
        if begin >= rows:
            break
        for i in range(begin, min(begin + tile, rows)):
            row = scores[i]
            mean = row.dtype.type(0)
            for e in range(E):
                total = row.dtype.type(0)
                for d in range(dim):
                    total += q[i, S + e, d] * q[i, S + e, d]
                row[e] = np.sqrt(total)
                mean += row[e]
            if E > 0:
                mean /= E
                spread = row.dtype.type(0)
                for e in range(E):
                    spread += (row[e] - mean) ** 2
                deviation = np.sqrt(spread / (E - 1))
                for e in range(E):
                    row[e] /= deviation
                softmax_row(row)
                choose(row, K, chosen)
            for h in range(S):
                gates[i, h] = 1
            for e in range(E):
                gates[i, S + e] = 1 if chosen[e] else 0


@EXHIBIT.path
def norm_gates(
    q: Float[np.ndarray, "batch n heads dim"], *, n_shared: int, top_k: int
) -> dict[str, np.ndarray]:
    """See the reference."""
    batch, n, heads, dim = q.shape
    rows = batch * n
    gates = scratch.empty((rows, heads), q.dtype)
    scores = scratch.empty((rows, heads - n_shared), q.dtype)
    workers = None if q.size > 2**16 else 1
    run_workers(
        route_by_norm,
        *(q.reshape(rows, heads, dim), gates, scores, top_k, 64, np.zeros(1, np.int64)),
        workers=workers,
    )
    return {"gates": gates.reshape(batch, n, heads), "scores": scores.reshape(batch, n, -1)}
