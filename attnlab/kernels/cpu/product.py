"""Products of many rows with one matrix, on the kernels' own threads.

NumPy's `@` runs on threads of its BLAS library, which sleep and spin beside ours: on a busy machine a
small product between two kernels then waits for a core. Here tiles of rows are taken from a counter
as in every kernel. Few rows make few tiles, and each packs the whole weight: those are NumPy's.
"""

import numpy as np
from jaxtyping import Float

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, gemm_nt
from attnlab.kernels.cpu.runtime import (
    contiguous,
    fetch_add,
    run_workers,
    single_threaded_blas,
    threads,
    worker,
)

FEW = 512  # rows up to which packing the weight for each tile costs more than it brings


@worker
def multiply_rows(x, weight, transposed, tile, out, counter):
    """One worker's share: out (rows, columns) = x (rows, inner) weight, or weight^T."""
    put = np.zeros(2, x.dtype)
    put[0] = 1
    while True:
        start = fetch_add(counter, tile)
        if start >= x.shape[0]:
            break
        stop = min(start + tile, x.shape[0])
        if transposed:
            gemm_nt(put, x[start:stop], weight, out[start:stop])
        else:
            gemm_nn(put, x[start:stop], weight, out[start:stop])


def product(
    x: Float[np.ndarray, "*rows inner"], weight: Float[np.ndarray, "inner columns"]
) -> Float[np.ndarray, "*rows columns"]:
    """x @ weight over the last axis, float32 or float64 as x."""
    return _multiply(x, weight, False, weight.shape[1])


def linear(
    x: Float[np.ndarray, "*rows inner"], weight: Float[np.ndarray, "columns inner"]
) -> Float[np.ndarray, "*rows columns"]:
    """x @ weight^T over the last axis, float32 or float64 as x."""
    return _multiply(x, weight, True, weight.shape[0])


def _multiply(x: np.ndarray, weight: np.ndarray, transposed: bool, columns: int) -> np.ndarray:
    rows = contiguous(x).reshape(-1, x.shape[-1])
    weight = contiguous(weight, x.dtype)
    out = scratch.empty((len(rows), columns), x.dtype)
    if len(rows) < FEW:
        np.matmul(rows, weight.T if transposed else weight, out=out)
        return out.reshape(*x.shape[:-1], columns)
    # long tiles spread the packing of the weight; two a thread even out the work
    tile = max(64, min(512, -(-len(rows) // (2 * threads())) // 8 * 8))
    workers = None if len(rows) * weight.size > 2**20 else 1
    with single_threaded_blas():
        counter = np.zeros(1, np.int64)
        run_workers(multiply_rows, rows, weight, transposed, tile, out, counter, workers=workers)
    return out.reshape(*x.shape[:-1], columns)
