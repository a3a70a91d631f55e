"""FP8 in blocks: E4M3 elements, one scale for each 128x128 tile of a matrix, as files store it.

The format of V4's attention and shared-expert linears (scales UE8M0) and of V3's (scales float32).
Source: DeepSeek-V4's released files.  Dims: O rows, I columns, P = ceil(O/128), Q = ceil(I/128).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dougong.formats.blocks import Quantized
from dougong.formats.blocks import dequantize as dequantize_blocks
from dougong.formats.blocks import quantize as quantize_blocks
from dougong.formats.format import FP8

BLOCK = 128


def scale_shape(rows: int, columns: int) -> tuple[int, int]:
    """The shape of the scales of a [rows, columns] matrix; edge tiles are smaller."""
    return FP8.scale_shape(rows, columns)


def quantize(w_OI: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """E4M3 codes [O, I] and scales [P, Q], each the power of two at or above the tile's amax / 448.

    A matrix that came from this format keeps its values: the scale chosen is never above the one it
    had, and E4M3 times a power of two stays E4M3 below 448. A tile of zeros has scale 1.
    Raises ShapeError unless w is a matrix, InputError if it holds NaN or infinity.
    """
    quantized = quantize_blocks(w_OI, FP8)
    assert quantized.scale_PQ is not None
    return quantized.codes_OI, quantized.scale_PQ


def dequantize(codes_OI: NDArray[np.uint8], scale_PQ: NDArray[np.float32]) -> NDArray[np.float32]:
    """The float32 values [O, I]; exact for power-of-two scales.

    Raises ShapeError if the scales do not fit the codes.
    """
    return dequantize_blocks(Quantized(FP8, codes_OI, scale_PQ))
