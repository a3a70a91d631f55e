"""How far a quantized matrix is from the original, and samples to measure formats on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dougong.formats.blocks import Quantized, dequantize
from dougong.formats.format import FP4, FP8

# FP4 blocks of 32 fold into one 128x128 FP8 tile without loss if the tile's largest scale is at
# most this many times its smallest: with the FP8 scale max / 2**6, 6 * 2**6 = 384 stays below 448
# and 0.5 * 2**(6 - 11) = 2**-6 is E4M3's smallest normal number. Source: arXiv 2606.19348.
LOSSLESS_RATIO = 2.0**11
_FP4_BLOCK = FP4.block[1]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What quantizing changed, as sums, so that tensors add up to a model.

    `saturated` counts the values whose magnitude was beyond the format's range: those that would
    round above the largest number.
    """

    count: int = 0
    squares: float = 0.0
    error_squares: float = 0.0
    saturated: int = 0

    def __add__(self, other: Fidelity) -> Fidelity:
        return Fidelity(
            count=self.count + other.count,
            squares=self.squares + other.squares,
            error_squares=self.error_squares + other.error_squares,
            saturated=self.saturated + other.saturated,
        )

    @property
    def relative_rms(self) -> float:
        """Root of (sum of squared errors / sum of squares); 0 for a tensor of zeros."""
        return math.sqrt(self.error_squares / self.squares) if self.squares else 0.0


def fidelity(x_OI: NDArray[np.floating], quantized: Quantized) -> Fidelity:
    """Compares `quantized` with the matrix it was made from, a band of rows at a time."""
    total = Fidelity(count=x_OI.size)
    for rows, part in quantized.bands():
        x_BI = np.asarray(x_OI[rows], np.float32)
        error = (dequantize(part) - x_BI).astype(np.float64)
        total += Fidelity(
            squares=float(np.square(x_BI, dtype=np.float64).sum()),
            error_squares=float(np.square(error).sum()),
            saturated=_saturated(x_BI, part),
        )
    return total


def _saturated(x_BI: NDArray[np.float32], part: Quantized) -> int:
    overflow = np.float32(part.format.element.overflow)
    if part.zero_PQ is not None:  # the range is fitted to the smallest and the largest value
        return 0
    return int((np.abs(x_BI) > overflow * part.step_of()).sum())


def lossy_tiles(quantized: Quantized) -> tuple[int, int]:
    """How many FP8 tiles an FP4 matrix spans, and how many exceed `LOSSLESS_RATIO`.

    A tile is 128 rows by 128 columns, four blocks of 32. Blocks of zeros fit any scale. In other
    formats than FP4 in rows of 32 there is nothing to fold, so there are no tiles; the columns are
    a multiple of 32, as in a checkpoint.
    """
    format, scale_OG = quantized.format, quantized.scale_PQ
    if format.element != FP4.element or format.block != FP4.block or scale_OG is None:
        return 0, 0
    magnitudes = quantized.codes_OI & np.uint8(7)
    is_zero_OG = ~magnitudes.reshape(*scale_OG.shape, _FP4_BLOCK).any(axis=-1)
    height, width = FP8.block[0], FP8.block[1] // _FP4_BLOCK
    rows, columns = np.arange(0, scale_OG.shape[0], height), np.arange(0, scale_OG.shape[1], width)
    largest = np.where(is_zero_OG, np.float32(0), scale_OG)
    smallest = np.where(is_zero_OG, np.float32(np.inf), scale_OG)
    top = np.maximum.reduceat(np.maximum.reduceat(largest, rows, 0), columns, 1)
    bottom = np.minimum.reduceat(np.minimum.reduceat(smallest, rows, 0), columns, 1)
    return top.size, int((top > bottom * LOSSLESS_RATIO).sum())


SAMPLE_SHAPE = (1024, 4096)
HEAVY_TAIL_FREEDOM = 4  # Student's t with 4 degrees of freedom: finite variance, infinite kurtosis


def gaussian(shape: tuple[int, int] = SAMPLE_SHAPE) -> NDArray[np.float32]:
    """Normal values of standard deviation 0.02, as weights are initialized; the same every time."""
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    return values * np.float32(0.02)


def heavy_tailed(shape: tuple[int, int] = SAMPLE_SHAPE) -> NDArray[np.float32]:
    """Student's t with few outliers that are very large; the same every time."""
    values = np.random.default_rng(1).standard_t(HEAVY_TAIL_FREEDOM, shape)
    return (values * 0.02).astype(np.float32)
