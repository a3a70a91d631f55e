"""Number formats, exact to the bit (numpy; imports only errors and config).

Elements: e4m3, e2m1, bf16, ue8m0 and hif8 are modules with `decode(codes) -> float32` and
`encode(x) -> codes`; `elements` and `minifloat` hold the rest. `format.FORMATS` describes every
format (element, block, scales, bytes, machines), `blocks.quantize` and `blocks.dequantize` apply
any of them to a matrix, `measure` says what was lost. fp8_block and fp4_block are the two that
checkpoints store, packed as in the files.
Values are element * block scale * tensor scale. Elements round to nearest, ties to the even code
(HiF8: away from zero), and saturate.
"""

from dougong.formats.blocks import Quantized, dequantize, quantize
from dougong.formats.format import ALIASES, FORMATS, FP4, FP8, Format, find_format
from dougong.formats.measure import Fidelity, fidelity

__all__ = [
    "ALIASES",
    "FORMATS",
    "FP4",
    "FP8",
    "Fidelity",
    "Format",
    "Quantized",
    "dequantize",
    "fidelity",
    "find_format",
    "quantize",
]
