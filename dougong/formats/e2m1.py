"""E2M1: 4-bit floats 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; one code per byte here.

Source: OCP microscaling formats (MX) specification, FP4.
"""

from __future__ import annotations

from dougong.formats.minifloat import Minifloat

E2M1 = Minifloat(name="E2M1", exponent_bits=2, mantissa_bits=1, bias=1, has_nan=False)
MAX = E2M1.max  # 6
decode = E2M1.decode
encode = E2M1.encode
