"""Exponentials that LLVM turns into vector instructions; what a call to libm prevents.

exp(x) = 2^n * exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2: a polynomial in r, and n added
to the exponent bits. float32 is good to 2e-7 relative, float64 to 4e-16. Below the smallest normal
number (x < -87.3, -708.3; -inf too) the result is 0; above the range (x > 88, 709) it is +inf; NaN
stays NaN. Inside kernels `exp(x)` takes either type; the row forms work in place on 2-D views.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from attnlab.kernels.cpu.runtime import block
from attnlab.kernels.cpu.scratch import packed

# n ln 2 is subtracted in two parts, the first short enough that the product is exact; reassociation
# would add the parts up again, so these functions allow contraction to fused multiply-adds only.
_EXACT = {"nsz", "contract"}

_LOG2E = np.float32(1 / math.log(2))
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(1.5 * 2**23)  # adding this leaves round(t) in the low bits
_LOW, _HIGH = np.float32(-87.33654), np.float32(88.37626)
# (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2: least squares at Chebyshev nodes, 1.5e-8 in exp(r)
_P0, _P1, _P2, _P3, _P4 = (
    np.float32(c) for c in (0.5, 0.16666516661643982, 0.0416662693, 0.008369144, 0.00139461947)
)

_LOG2E_64 = 1 / math.log(2)
_LN2_HIGH_64 = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW_64 = float.fromhex("0x1.a39ef35793c76p-33")
_ROUND_64 = 1.5 * 2.0**52
_LOW_64, _HIGH_64 = -708.39, 709.43
# Taylor to r^13: the next term is 2^-58 at |r| = ln(2)/2
(_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13) = (
    1 / math.factorial(k) for k in range(2, 14)
)


@intrinsic
def _times_power_of_two(typingctx, y, t):
    """y 2^n, where t = n + 1.5 * 2^23 (float64: 2^52): n sits in the low bits of t."""
    bits, mantissa = (32, 23) if y == types.float32 else (64, 52)

    def codegen(context, builder, signature, args):
        integer = ir.IntType(bits)
        y_bits, t_bits = (builder.bitcast(a, integer) for a in args)
        shifted = builder.shl(t_bits, integer(mantissa))
        return builder.bitcast(builder.add(y_bits, shifted), args[0].type)

    return y(y, t), codegen


@block(fastmath=_EXACT)
def _exp32(x):
    c = _LOW if x < _LOW else x  # comparisons are written so that NaN passes through
    t = c * _LOG2E + _ROUND
    n = t - _ROUND
    r = (c - n * _LN2_HIGH) - n * _LN2_LOW
    p = (((_P4 * r + _P3) * r + _P2) * r + _P1) * r + _P0
    y = _times_power_of_two((p * r) * r + (r + np.float32(1)), t)
    return np.float32(0) if x < _LOW else y


@block(fastmath=_EXACT)
def _exp64(x):
    c = _LOW_64 if x < _LOW_64 else x
    t = c * _LOG2E_64 + _ROUND_64
    n = t - _ROUND_64
    r = (c - n * _LN2_HIGH_64) - n * _LN2_LOW_64
    p = ((((_C13 * r + _C12) * r + _C11) * r + _C10) * r + _C9) * r + _C8
    p = (((((p * r + _C7) * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    y = _times_power_of_two((p * r) * r + (r + 1.0), t)
    return 0.0 if x < _LOW_64 else y


def exp_nonpositive(x):
    """exp of a float32 or float64 x <= 0 (softmax has no other), inside compiled code."""
    return np.exp(x)


def exp(x):
    """exp of any float32 or float64, inside compiled code."""
    return np.exp(x)


@overload(exp_nonpositive)
def _exp_nonpositive_overload(x):
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: _exp64(x))


@overload(exp, jit_options={"fastmath": _EXACT})
def _exp_overload(x):
    compute, high, infinity = (
        (_exp32, _HIGH, np.float32(np.inf)) if x == types.float32 else (_exp64, _HIGH_64, np.inf)
    )

    def clamped(x):
        y = compute(high if x > high else x)
        return infinity if x > high else y

    return clamped


@block
def sigmoid(x):
    """1 / (1 + exp(-x)); where exp(-x) overflows to inf this is 0, as it should be."""
    one = type(x)(1)
    return one / (one + exp(-x))


@block(fastmath=_EXACT)
def tanh(x):
    """tanh(x) to a few units in the last place of values near 1; absolute error 1e-7, 4e-16."""
    one = type(x)(1)
    e = exp(type(x)(-2) * abs(x))  # in (0, 1]
    y = (one - e) / (one + e)
    return y if x >= 0 else -y


@block
def exp_rows(x):
    """x <- exp(x), in place, 2-D; elements of a row adjacent."""
    for i in range(x.shape[0]):
        row = packed(x[i])
        for j in range(row.size):
            row[j] = exp(row[j])


@block
def sigmoid_rows(x):
    """x <- sigmoid(x), in place, 2-D; elements of a row adjacent."""
    for i in range(x.shape[0]):
        row = packed(x[i])
        for j in range(row.size):
            row[j] = sigmoid(row[j])


@block
def silu_rows(x):
    """x <- x sigmoid(x), in place, 2-D; elements of a row adjacent."""
    for i in range(x.shape[0]):
        row = packed(x[i])
        for j in range(row.size):
            row[j] = row[j] * sigmoid(row[j])


@block
def tanh_rows(x):
    """x <- tanh(x), in place, 2-D; elements of a row adjacent."""
    for i in range(x.shape[0]):
        row = packed(x[i])
        for j in range(row.size):
            row[j] = tanh(row[j])
