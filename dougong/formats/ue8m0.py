"""UE8M0: a power of two in one byte, 2**(code - 127); code 255 is NaN. The scales of V4.

Source: OCP microscaling formats (MX) specification, E8M0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dougong.errors import InputError

NAN = 255
_VALUES = np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype(np.float32)
_MANTISSA = np.uint32(0x007FFFFF)
_SMALLEST_BITS = np.uint32(0x00400000)  # 2**-127 as a float32: a subnormal


def decode(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The exact powers of two of `codes`; same shape. 2**-127 is a float32 subnormal."""
    return _VALUES[codes]


def encode(x: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The codes of the smallest powers of two that are at least `x` (read as float32).

    Up, so that dividing by the scale never leaves the element format's range. Values below 2**-127,
    0 included, give code 0. Raises InputError unless every x is 0 <= x <= 2**127.
    """
    bits = _checked_bits(x)
    codes = (bits >> np.uint32(23)) + ((bits & _MANTISSA) != 0)
    return np.where(bits <= _SMALLEST_BITS, 0, codes).astype(np.uint8)


def encode_down(x: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The codes of the largest powers of two that are at most `x` (read as float32).

    As the MX specification chooses scales; the largest elements may then saturate. Otherwise as
    `encode`.
    """
    return (_checked_bits(x) >> np.uint32(23)).astype(np.uint8)


def _checked_bits(x: NDArray[np.floating]) -> NDArray[np.uint32]:
    x = np.asarray(x, np.float32)
    if not ((x >= 0) & (x <= _VALUES[NAN - 1])).all():
        raise InputError("A scale is negative, NaN or above 2**127; UE8M0 cannot hold it.")
    bits: NDArray[np.uint32] = np.abs(x).view(np.uint32)  # abs: -0.0 has its sign bit set
    return bits
