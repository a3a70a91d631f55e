"""Number formats, exact to the bit (numpy; imports only errors and config).

An element format is a module with `decode(codes) -> float32` and `encode(x) -> codes`: e4m3, e2m1,
ue8m0, bf16. A block format is a module with `quantize(x) -> (codes, scale)` and `dequantize(codes,
scale) -> float32`, where value = element * scale: fp8_block (128x128) and fp4_block (rows of 32).
Encoding rounds to nearest, ties to the even code, and saturates; scales are rounded up.
"""
