"""Quantizing a matrix to any format of the registry, and back.

Dims: O rows, I columns; a block is R rows by C columns; P = ceil(O/R), Q = ceil(I/C) blocks. Rows
are taken in bands, so that temporaries stay in the CPU's cache and memory is what the codes take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.errors import InputError, ShapeError
from dougong.formats import bf16, ue8m0
from dougong.formats.format import Format, matrix_shape
from dougong.formats.minifloat import E4M3

Floats = NDArray[np.float32]
_BAND = 32  # rows at once where a block is one row high
_FP16_MAX = np.float32(65504)


@dataclass(frozen=True)
class Quantized:
    """A matrix in `format`: value = (code's value - zero) * scale * tensor_scale.

    codes_OI: one code in each cell, uint8 (BF16: uint16); `fp4_block.pack` puts two into a byte.
    scale_PQ: float32, each exactly a value of the format's scale; None without block scales.
    zero_PQ:  uint8, the codes that stand for 0; None without zero points.
    """

    format: Format
    codes_OI: NDArray[Any]
    scale_PQ: Floats | None = None
    zero_PQ: NDArray[np.uint8] | None = None
    tensor_scale: float = 1.0

    @property
    def nbytes(self) -> int:
        """What it takes stored, scales included and codes packed."""
        return self.format.nbytes(self.codes_OI.shape)

    def bands(self) -> Iterator[tuple[slice, Quantized]]:
        """Its rows in bands of whole blocks, each as a matrix of its own."""
        for rows, blocks in _bands(self.format, self.codes_OI.shape[0]):
            scale = None if self.scale_PQ is None else self.scale_PQ[blocks]
            zero = None if self.zero_PQ is None else self.zero_PQ[blocks]
            codes = self.codes_OI[rows]
            yield rows, Quantized(self.format, codes, scale, zero, self.tensor_scale)

    def step_of(self) -> Floats | np.float32:
        """What one unit of an element is worth, for each value: broadcasts against the codes."""
        tensor = np.float32(self.tensor_scale)
        if self.scale_PQ is None:
            return tensor
        steps: Floats = _per_value(self.scale_PQ * tensor, self.format, self.codes_OI.shape)
        return steps


def quantize(x_OI: NDArray[np.floating], format: Format) -> Quantized:
    """The matrix in `format`, each element rounded as the format says, saturating.

    A block of zeros has scale 1. Raises ShapeError unless x is a matrix, InputError if it holds NaN
    or infinity.
    """
    rows, columns = matrix_shape(x_OI.shape)
    tensor_scale = _tensor_scale(x_OI, format)
    is_wide = format.element.bits > 8
    codes_OI = np.empty((rows, columns), np.uint16 if is_wide else np.uint8)
    has_scale = format.scale != "none"
    scale_PQ = np.empty(format.scale_shape(rows, columns), np.float32) if has_scale else None
    zero_PQ = np.empty(format.scale_shape(rows, columns), np.uint8) if format.zero_point else None
    for band, blocks in _bands(format, rows):
        x_BI = np.asarray(x_OI[band], np.float32)
        if not np.isfinite(x_BI).all():
            raise InputError("The matrix to quantize holds NaN or infinity.")
        part = _quantize_band(x_BI, format, tensor_scale)
        codes_OI[band] = part.codes_OI
        if scale_PQ is not None and part.scale_PQ is not None:
            scale_PQ[blocks] = part.scale_PQ
        if zero_PQ is not None and part.zero_PQ is not None:
            zero_PQ[blocks] = part.zero_PQ
    return Quantized(format, codes_OI, scale_PQ, zero_PQ, tensor_scale)


def dequantize(quantized: Quantized) -> Floats:
    """The float32 values [O, I]; exact where all scales are powers of two.

    Raises ShapeError if the scales do not fit the codes.
    """
    shape, format = quantized.codes_OI.shape, quantized.format
    if len(shape) != 2 or (
        quantized.scale_PQ is not None and quantized.scale_PQ.shape != format.scale_shape(*shape)
    ):
        found = None if quantized.scale_PQ is None else list(quantized.scale_PQ.shape)
        raise ShapeError(f"{format.title} codes {list(shape)} do not fit scales {found}.")
    x_OI = np.empty(shape, np.float32)
    with np.errstate(over="ignore"):  # 448 * 2**127 is infinite; who reads weights refuses that
        for rows, part in quantized.bands():
            values = format.element.decode(part.codes_OI)
            if part.zero_PQ is not None:
                values = values - _per_value(part.zero_PQ, format, values.shape)
            np.multiply(values, part.step_of(), out=x_OI[rows])
    return x_OI


def _bands(format: Format, rows: int) -> Iterator[tuple[slice, slice]]:
    """Bands of rows, and of blocks: one row of tiles, or several of blocks that are one row."""
    height = format.block[0]
    step = height if height > 1 else _BAND
    for first in range(0, rows, step):
        band = slice(first, min(first + step, rows))
        yield band, slice(first // height, -(-band.stop // height))


def _quantize_band(x_BI: Floats, format: Format, tensor_scale: float) -> Quantized:
    scale = zero = None
    if format.scale != "none":
        blocks = _block_view(x_BI, format)
        if format.zero_point:
            low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
            reach = high - low
        else:
            reach = np.abs(blocks).max(-1)
        wanted = reach / np.float32(format.top) / np.float32(tensor_scale)
        scale = _round_scale(np.where(reach > 0, wanted, np.float32(1)), format)
        if format.zero_point:
            zero = np.clip(np.rint(-low / scale), 0, format.element.max).astype(np.uint8)
    steps = Quantized(format, x_BI, scale, None, tensor_scale).step_of()
    with np.errstate(over="ignore"):  # by a subnormal scale: saturates
        elements = x_BI / steps
    if zero is not None:
        elements = np.rint(elements) + _per_value(zero, format, x_BI.shape)
    # A slice at a time: with its temporaries a tile of 128 rows is larger than the CPU's cache.
    slices = [elements[row : row + _BAND] for row in range(0, len(elements), _BAND)]
    codes_BI = np.concatenate([format.element.encode(part) for part in slices])
    return Quantized(format, codes_BI, scale, zero)


def _block_view(x_BI: Floats, format: Format) -> Floats:
    """A band's blocks, the values of each on the last dim: [P, Q, n], padded with zeros."""
    height, width = format.block_shape(x_BI.shape[1])
    if height > 1:  # the band is one row of tiles; its columns' extremes say all
        extremes = np.abs(x_BI).max(axis=0, keepdims=True)
        return _split_columns(extremes, width)
    return _split_columns(x_BI, width)


def _split_columns(x_BI: Floats, width: int) -> Floats:
    if short := -x_BI.shape[1] % width:
        x_BI = np.pad(x_BI, ((0, 0), (0, short)))
    return x_BI.reshape(x_BI.shape[0], -1, width)


def _per_value(of_block: NDArray[Any], format: Format, shape: tuple[int, ...]) -> Any:
    """A figure of each block for each of its values, within one band: [B or 1, I]."""
    _, width = format.block_shape(shape[1])
    return np.repeat(of_block, width, axis=1)[:, : shape[1]]


def _round_scale(wanted: Floats, format: Format) -> Floats:
    """The scales that are stored for the wanted ones; one that is rounded to 0 becomes 1."""
    match format.scale:
        case "ue8m0_up":
            return ue8m0.decode(ue8m0.encode(wanted))
        case "ue8m0_down":
            return ue8m0.decode(ue8m0.encode_down(wanted))
        case "e4m3":
            scale = E4M3.decode(E4M3.encode(wanted))
        case "bf16":
            scale = bf16.decode(bf16.encode(wanted))
        case "fp16":
            scale = np.minimum(wanted, _FP16_MAX).astype(np.float16).astype(np.float32)
        case _:
            scale = wanted
    # Below half the smallest scale all values are nearly 0, and with scale 1 become 0.
    return np.where(scale > 0, scale, np.float32(1))


def _tensor_scale(x_OI: NDArray[np.floating], format: Format) -> float:
    """The float32 that brings the largest magnitude to `top`, block scales at their largest."""
    if not format.tensor_scale or not x_OI.size:
        return 1.0
    amax = max(float(np.abs(x_OI[band]).max()) for band, _ in _bands(format, x_OI.shape[0]))
    reach = format.top * (E4M3.max if format.scale == "e4m3" else 1)
    scale = float(np.float32(amax) / np.float32(reach))
    return scale if 0 < scale < float("inf") else 1.0
