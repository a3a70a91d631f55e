"""Floating-point elements of eight bits or fewer, described by their bit fields."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dougong.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Minifloat:
    """A sign bit, `exponent_bits`, `mantissa_bits`; no infinities; subnormals.

    With `has_nan` the largest code of either sign is NaN, as in E4M3; without, all are numbers.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    has_nan: bool

    @property
    def _sign_bit(self) -> int:
        return 1 << (self.exponent_bits + self.mantissa_bits)

    @property
    def _min_exponent(self) -> int:
        """Of the smallest normal number; subnormals share its quantum."""
        return 1 - self.bias

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """The value of every code, by code."""
        magnitudes = np.arange(self._sign_bit)
        exponent, mantissa = divmod(magnitudes, 1 << self.mantissa_bits)
        steps = np.where(exponent > 0, mantissa + (1 << self.mantissa_bits), mantissa)
        quantum = np.maximum(exponent, 1) - self.bias - self.mantissa_bits
        positive = np.ldexp(steps.astype(np.float32), quantum)
        if self.has_nan:
            positive[-1] = np.nan
        table = np.concatenate([positive, -positive]).astype(np.float32)
        table.flags.writeable = False
        return table

    @cached_property
    def max(self) -> float:
        """The largest finite value."""
        return float(np.nanmax(self.values))

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The exact values of `codes`, one code per byte; same shape."""
        return self.values[codes]

    def encode(self, x: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The codes nearest to `x` (read as float32), ties to even, saturating; same shape.

        Raises InputError for NaN where the format has none.
        """
        x = np.asarray(x, np.float32)
        if (is_nan := np.isnan(x)).any():
            if not self.has_nan:
                raise InputError(f"{self.name} cannot hold NaN, and the values to encode have one.")
            numbers = self.encode(np.where(is_nan, np.copysign(np.float32(0), x), x))
            return np.where(is_nan, numbers | np.uint8(self._sign_bit - 1), numbers)
        bits = np.minimum(np.abs(x), np.float32(self.max)).view(np.int32)
        # Of a float32 that is 0 or subnormal: -127, below every format's smallest.
        exponent = np.maximum((bits >> 23) - 127, self._min_exponent)
        # Exact: a power of two. A mantissa that rounds up to 2 carries into the exponent field.
        quanta = np.rint(np.ldexp(bits.view(np.float32), self.mantissa_bits - exponent))
        codes = ((exponent - self._min_exponent) << self.mantissa_bits) + quanta.astype(np.int32)
        signs = np.signbit(x).astype(np.int32) * self._sign_bit
        return np.asarray(codes + signs, np.uint8)
