"""E2M1: 4-bit floats 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; one code per byte here.

Source: OCP microscaling formats (MX) specification, FP4.
"""

from __future__ import annotations

from dougong.formats.minifloat import E2M1

MAX = E2M1.max  # 6
decode = E2M1.decode
encode = E2M1.encode

__all__ = ["E2M1", "MAX", "decode", "encode"]
