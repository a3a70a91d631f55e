"""E4M3: 8-bit floats with 3 mantissa bits, largest value 448, NaN at 0x7f and 0xff, no infinity.

Source: OCP 8-bit floating point specification (OFP8), E4M3.
"""

from __future__ import annotations

from dougong.formats.minifloat import E4M3

MAX = E4M3.max  # 448
decode = E4M3.decode
encode = E4M3.encode

__all__ = ["E4M3", "MAX", "decode", "encode"]
