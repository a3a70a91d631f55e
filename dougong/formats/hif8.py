"""HiF8 (HiFloat8): 8-bit floats that spend fewer mantissa bits the farther they are from 1.

After the sign comes the dot, a prefix code for the number of exponent bits: 11 four, 10 three, 01
two, 001 one, 0001 none. The exponent is sign and magnitude with the magnitude's leading one left
out; what remains is mantissa: 3 bits for |exponent| <= 3, 2 up to 7, 1 up to 15. Dot 0000 is
denormal: 2**(M - 23) for the three bits M = 1 to 7, zero for M = 0, NaN if that is negative.
0x6f is infinity, so the largest number is 2**15; there is one zero.
Source: arXiv 2409.16626 (rounding: half away from zero).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAN, INFINITY = 0x80, 0x6F
_DOTS = (("11", 4), ("10", 3), ("01", 2), ("001", 1), ("0001", 0))
_DENORMAL_BIAS = 23
_MIN_EXPONENT, _MAX_EXPONENT = -22, 15


def _value(code: int) -> float:
    """The value of a code from 0 to 127, read bit by bit."""
    text = f"{code:07b}"
    if code == INFINITY:
        return float("inf")
    for dot, width in _DOTS:
        if text.startswith(dot):
            exponent_text, mantissa = text[len(dot) :][:width], text[len(dot) + width :]
            exponent = int("1" + exponent_text[1:], 2) if width else 0
            sign = -1 if exponent_text.startswith("1") else 1
            return float((1 + int(mantissa, 2) / 2 ** len(mantissa)) * 2.0 ** (sign * exponent))
    return float(2.0 ** (code - _DENORMAL_BIAS)) if code else 0.0


def _code_table() -> NDArray[np.uint8]:
    """[38, 8]: the code of 2**e * (1 + m/8), by e from -22 on and m, where it is a HiF8 number."""
    table = np.zeros((_MAX_EXPONENT - _MIN_EXPONENT + 1, 8), np.uint8)
    for code, value in enumerate(VALUES[:128].tolist()):
        if 0 < value < float("inf"):
            mantissa, exponent = np.frexp(value)
            table[exponent - 1 - _MIN_EXPONENT, int(mantissa * 16) - 8] = code
    return table


_POSITIVE = np.array([_value(code) for code in range(128)], np.float32)
VALUES = np.concatenate([_POSITIVE, -_POSITIVE])
VALUES[NAN] = np.nan
VALUES.flags.writeable = False
_CODES = _code_table()
# Mantissa bits by exponent, from -22 on; below 2**-15 none.
_WIDTHS = np.array([3 * (abs(e) <= 3) or 2 * (abs(e) <= 7) or abs(e) <= 15 for e in range(-22, 16)])


class HiFloat8:
    """The element codec; `VALUES` lists the value of every code."""

    name = "HiF8"
    bits = 8
    max = 2.0**_MAX_EXPONENT
    smallest = 2.0**_MIN_EXPONENT
    overflow = 1.25 * 2.0**_MAX_EXPONENT  # midway to 1.5 * 2**15, whose place infinity takes
    values = VALUES

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The exact values of `codes`; same shape."""
        return VALUES[codes]

    def encode(self, x: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The codes nearest to `x` (read as float32), ties away from zero; same shape.

        Magnitudes from 1.25 * 2**15 on become infinite, those below 2**-23 zero; NaN stays NaN.
        """
        x = np.ascontiguousarray(x, np.float32)
        # From 2**-23, which is half the smallest number and rounds up to it, to the overflow.
        magnitude = np.clip(np.nan_to_num(np.abs(x), nan=0), 2.0**-23, self.overflow)
        bits = magnitude.astype(np.float32).view(np.int32)
        exponent = np.maximum((bits >> 23) - 127, _MIN_EXPONENT)
        dropped = 23 - _WIDTHS[exponent - _MIN_EXPONENT]
        rounded = np.maximum(bits + (1 << (dropped - 1)), (127 + _MIN_EXPONENT) << 23)
        rounded = (rounded >> dropped) << dropped
        exponent, eighths = (rounded >> 23) - 127, (rounded >> 20) & 7
        codes = _CODES[exponent - _MIN_EXPONENT, eighths]
        codes = np.where(magnitude >= self.overflow, np.uint8(INFINITY), codes)
        codes = np.where(np.abs(x) < 2.0**-23, np.uint8(0), codes)
        codes = np.where(np.signbit(x) & (codes > 0), codes | np.uint8(NAN), codes)
        return np.where(np.isnan(x), np.uint8(NAN), codes)


HIF8 = HiFloat8()
