"""Matrix products on tiles: C = alpha A B + beta C in place, rows of any stride, no temporaries.

`np.dot` wants contiguous operands and cannot accumulate; these call the same BLAS routine with its
leading dimensions and its beta. Elements of a row must be adjacent (`strides[1] == itemsize`).
Callers hold `single_threaded_blas()`.
"""

import numpy as np
from numba import types
from numba.extending import overload

from attnlab.kernels.cpu.runtime import block

_char, _int = types.char, types.intp


def _gemm_symbol(dtype):
    pointer = types.CPointer(dtype)
    return types.ExternalFunction(
        "numba_xxgemm",
        types.intc(
            *(_char, _char, _char),  # kind, transpose of A, of B, in BLAS's column-major view
            *(_int, _int, _int),  # m, n, k
            *(pointer, pointer, _int),  # alpha, A, lda
            *(pointer, _int, pointer),  # B, ldb, beta
            *(pointer, _int),  # C, ldc
        ),
    )


_sgemm, _dgemm = _gemm_symbol(types.float32), _gemm_symbol(types.float64)
_N, _T, _S, _D = ord("n"), ord("t"), ord("s"), ord("d")


def _gemm(transpose, rows, columns, inner, scalars, a, b, c):
    raise NotImplementedError("compiled code only")


@overload(_gemm)
def _gemm_overload(transpose, rows, columns, inner, scalars, a, b, c):
    routine, kind = (_sgemm, _S) if a.dtype == types.float32 else (_dgemm, _D)

    # The stride of an axis of size 1 means nothing and may be anything: a row is the least.
    # BLAS sees row-major C as C^T = B^T A^T: operands and sizes swap
    def call(transpose, rows, columns, inner, scalars, a, b, c):
        size = a.itemsize
        lda, ldb, ldc = a.strides[0] // size, b.strides[0] // size, c.strides[0] // size
        routine(
            kind,
            _T if transpose else _N,
            _N,
            columns,
            rows,
            inner,
            scalars.ctypes,
            b.ctypes,
            max(ldb, b.shape[1], 1),
            a.ctypes,
            max(lda, a.shape[1], 1),
            scalars[1:].ctypes,
            c.ctypes,
            max(ldc, c.shape[1], 1),
        )

    return call


@block
def gemm_nn(scalars, a, b, c):
    """c (m, n) = alpha a (m, k) b (k, n) + beta c, with scalars = array([alpha, beta])."""
    if c.size > 0:
        _gemm(False, a.shape[0], b.shape[1], a.shape[1], scalars, a, b, c)


@block
def gemm_nt(scalars, a, b, c):
    """c (m, n) = alpha a (m, k) b^T, b (n, k), + beta c, with scalars = array([alpha, beta])."""
    if c.size > 0:
        _gemm(True, a.shape[0], b.shape[0], a.shape[1], scalars, a, b, c)


@block
def scalars(alpha, beta, dtype):
    """The array [alpha, beta] that the products take: make it once, outside the loops."""
    pair = np.empty(2, dtype)
    pair[0] = alpha
    pair[1] = beta
    return pair
