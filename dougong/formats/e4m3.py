"""E4M3: 8-bit floats with 3 mantissa bits, largest value 448, NaN at 0x7f and 0xff, no infinity.

Source: OCP 8-bit floating point specification (OFP8), E4M3.
"""

from __future__ import annotations

from dougong.formats.minifloat import Minifloat

E4M3 = Minifloat(name="E4M3", exponent_bits=4, mantissa_bits=3, bias=7, has_nan=True)
MAX = E4M3.max  # 448
decode = E4M3.decode
encode = E4M3.encode
