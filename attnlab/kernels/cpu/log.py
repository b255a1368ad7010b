"""A base-2 logarithm that LLVM turns into vector instructions; a call to libm prevents that.

x = 2^e m with m in [sqrt(1/2), sqrt(2)); log2 x = e + log2 m, and with s = (m - 1) / (m + 1)
log m = 2 (s + s^3/3 + s^5/5 + ...). float32 is good to 2e-7, float64 to 4e-16 (relative, absolute
where the result is below 1). For positive normal numbers; 0 gives -127 (float64: -1023), so that
0 log2 0 is 0 without a branch, which is what entropies want.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from attnlab.kernels.cpu.runtime import block

_EXACT = {"nsz", "contract"}
_LOG2E = 1 / math.log(2)
_LOG2E_32 = np.float32(_LOG2E)
_S32 = tuple(np.float32(2 / (2 * k + 1)) for k in range(5))
_A0, _A1, _A2, _A3, _A4 = _S32
_B0, _B1, _B2, _B3, _B4, _B5, _B6, _B7, _B8, _B9, _B10 = (2 / (2 * k + 1) for k in range(11))


def _split(builder, x, kind):
    """(bits of x, exponent e as an integer): e counts from sqrt(1/2)."""
    bits, mantissa, root = (
        (32, 23, 0x3F3504F3) if kind == types.float32 else (64, 52, 0x3FE6A09E667F3BCD)
    )
    integer = ir.IntType(bits)
    raw = builder.bitcast(x, integer)
    return raw, builder.ashr(builder.sub(raw, integer(root)), integer(mantissa)), integer(mantissa)


@intrinsic
def _exponent(typingctx, x):
    """e as a float of x's type."""

    def codegen(context, builder, signature, args):
        _, e, _ = _split(builder, args[0], signature.args[0])
        return builder.sitofp(e, args[0].type)

    return x(x), codegen


@intrinsic
def _mantissa(typingctx, x):
    """m = x 2^-e."""

    def codegen(context, builder, signature, args):
        raw, e, width = _split(builder, args[0], signature.args[0])
        return builder.bitcast(builder.sub(raw, builder.shl(e, width)), args[0].type)

    return x(x), codegen


@block(fastmath=_EXACT)
def _log2_32(x):
    m = _mantissa(x)
    s = (m - np.float32(1)) / (m + np.float32(1))
    z = s * s
    p = (((_A4 * z + _A3) * z + _A2) * z + _A1) * z + _A0
    return _exponent(x) + (s * p) * _LOG2E_32


@block(fastmath=_EXACT)
def _log2_64(x):
    m = _mantissa(x)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = (((((_B10 * z + _B9) * z + _B8) * z + _B7) * z + _B6) * z + _B5) * z + _B4
    p = (((p * z + _B3) * z + _B2) * z + _B1) * z + _B0
    return _exponent(x) + (s * p) * _LOG2E


def log2(x):
    """log2 of a positive float32 or float64, inside compiled code."""
    return np.log2(x)


@overload(log2)
def _log2_overload(x):
    return (lambda x: _log2_32(x)) if x == types.float32 else (lambda x: _log2_64(x))


@block
def entropy_bits(row):
    """- sum w log2 w of a 1-D row of weights w >= 0, in bits; zeros add nothing."""
    total = row.dtype.type(0)
    for j in range(row.size):
        total -= row[j] * log2(row[j])
    return total
