"""FP8 in blocks: E4M3 elements, one scale for each 128x128 tile of a matrix.

The format of V4's attention and shared-expert linears (scales UE8M0) and of V3's (scales float32).
Source: architecture.md 5.1.  Dims: O rows, I columns, P = ceil(O/128), Q = ceil(I/128).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dougong.errors import InputError, ShapeError
from dougong.formats import e4m3, ue8m0

BLOCK = 128


def scale_shape(rows: int, columns: int) -> tuple[int, int]:
    """The shape of the scales of a [rows, columns] matrix; edge tiles are smaller."""
    return -(-rows // BLOCK), -(-columns // BLOCK)


def quantize(w_OI: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """E4M3 codes [O, I] and scales [P, Q], each the power of two at or above the tile's amax / 448.

    A matrix that came from this format keeps its values: the scale chosen is never above the one it
    had, and E4M3 times a power of two stays E4M3 below 448. A tile of zeros has scale 1.
    Raises ShapeError unless w is a matrix, InputError if it holds NaN or infinity.
    """
    if w_OI.ndim != 2:
        raise ShapeError(f"FP8 128x128 blocks need a matrix, got shape {list(w_OI.shape)}.")
    codes_OI = np.empty(w_OI.shape, np.uint8)
    scale_PQ = np.empty(scale_shape(*w_OI.shape), np.float32)
    for p, rows in enumerate(_bands(w_OI.shape[0])):
        w_BI = np.asarray(w_OI[rows], np.float32)
        scale_PQ[p] = _scales_of_band(w_BI)
        codes_OI[rows] = e4m3.encode(w_BI / _per_column(scale_PQ[p], w_OI.shape[1]))
    return codes_OI, scale_PQ


def dequantize(codes_OI: NDArray[np.uint8], scale_PQ: NDArray[np.float32]) -> NDArray[np.float32]:
    """The float32 values [O, I]; exact for power-of-two scales.

    Raises ShapeError if the scales do not fit the codes.
    """
    if codes_OI.ndim != 2 or scale_PQ.shape != scale_shape(*codes_OI.shape):
        raise ShapeError(
            f"FP8 codes {list(codes_OI.shape)} do not fit scales {list(scale_PQ.shape)}."
        )
    w_OI = e4m3.decode(codes_OI)
    with np.errstate(over="ignore"):  # 448 * 2**127 is infinite; who reads weights refuses that
        for p, rows in enumerate(_bands(codes_OI.shape[0])):
            w_OI[rows] *= _per_column(scale_PQ[p], codes_OI.shape[1])
    return w_OI


def _bands(rows: int) -> list[slice]:
    return [slice(first, min(first + BLOCK, rows)) for first in range(0, rows, BLOCK)]


def _per_column(scale_Q: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    return np.repeat(scale_Q, BLOCK)[:columns]


def _scales_of_band(w_BI: NDArray[np.float32]) -> NDArray[np.float32]:
    """One scale for each 128 columns of a band of at most 128 rows."""
    amax_I = np.abs(w_BI).max(axis=0)
    amax_Q = np.maximum.reduceat(amax_I, np.arange(0, amax_I.size, BLOCK))
    if not np.isfinite(amax_Q).all():
        raise InputError("The matrix to quantize holds NaN or infinity.")
    wanted = np.where(amax_Q > 0, amax_Q / np.float32(e4m3.MAX), np.float32(1))
    return ue8m0.decode(ue8m0.encode(wanted))
