"""What an element format is, and the ones that are neither minifloats nor HiF8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dougong.errors import InputError
from dougong.formats import bf16


class Element(Protocol):
    """A number format for single values; codes are unsigned integers, one in each array cell."""

    @property
    def name(self) -> str:
        """What the field calls it."""

    @property
    def bits(self) -> int:
        """The bits of a code."""

    @property
    def max(self) -> float:
        """The largest finite value."""

    @property
    def smallest(self) -> float:
        """The smallest positive value."""

    @property
    def overflow(self) -> float:
        """The least magnitude that saturation changes by more than rounding would."""

    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """The exact values of `codes`; same shape."""

    def encode(self, x: NDArray[np.floating]) -> NDArray[Any]:
        """The codes nearest to `x`; same shape."""


@dataclass(frozen=True, kw_only=True)
class Integer:
    """Whole numbers, rounded to nearest even and saturating: -max to max, or 0 to max.

    A signed code is two's complement in the low `bits`; the lowest one (-128, -8) is not used, so
    that the range is symmetric, as INT8 and INT4 weights have it.
    """

    name: str
    bits: int
    signed: bool = True

    @property
    def max(self) -> float:
        """127, 7, or 15 for four unsigned bits."""
        return float(2 ** (self.bits - self.signed) - 1)

    @property
    def smallest(self) -> float:
        """One."""
        return 1.0

    @property
    def overflow(self) -> float:
        """Half a step above the largest."""
        return self.max + 0.5

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """The value of every code, by code."""
        codes = np.arange(2**self.bits)
        wrapped = codes - 2**self.bits * (codes > self.max)
        return (wrapped if self.signed else codes).astype(np.float32)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The exact values of `codes`; same shape."""
        return self.values[codes]

    def encode(self, x: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The codes nearest to `x`, ties to even, saturating; raises InputError for NaN."""
        x = np.asarray(x, np.float32)
        if np.isnan(x).any():
            raise InputError(f"{self.name} cannot hold NaN, and the values to encode have one.")
        lowest = -self.max if self.signed else 0.0
        whole = np.clip(np.rint(x), lowest, self.max).astype(np.int16)
        codes: NDArray[np.uint8] = (whole & np.int16(2**self.bits - 1)).astype(np.uint8)
        return codes


class BFloat16:
    """BF16 as an element: the yardstick that the small formats are held against."""

    name = "BF16"
    bits = 16
    max = (2 - 2.0**-7) * 2.0**127
    smallest = 2.0**-133
    overflow = (2 - 2.0**-8) * 2.0**127

    def decode(self, codes: NDArray[np.uint16]) -> NDArray[np.float32]:
        """The exact values of `codes`; same shape."""
        return bf16.decode(codes)

    def encode(self, x: NDArray[np.floating]) -> NDArray[np.uint16]:
        """The codes nearest to `x`, ties to even; too large becomes infinite."""
        return bf16.encode(x)


BF16 = BFloat16()
INT8 = Integer(name="INT8", bits=8)
INT4 = Integer(name="INT4", bits=4)
UINT4 = Integer(name="UINT4", bits=4, signed=False)
