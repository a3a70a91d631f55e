"""Random inputs of operators: rows, rotations, and weights in every stored format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dougong.formats import find_format, fp4_block, fp8_block, quantize, ue8m0
from dougong.kernels.rotary import rotations
from dougong.kernels.stored import StoredMatrix

# dtypes of StoredMatrix; V3 is FP8 with float32 scales, INT8_32 has a float16 scale for 32 columns.
FORMATS = ("F32", "BF16", "F8_E4M3", "V3", "I8", "INT8", "INT8_32", "INT8_128")
DTYPES = (torch.float32, torch.bfloat16)
T = TypeVar("T")


class Draw:
    """A seeded source of inputs: the same seed gives the same ones, whatever is installed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def choice(self, things: Sequence[T]) -> T:
        """One of `things`."""
        return things[self.integer(0, len(things) - 1)]

    def noise(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normally distributed numbers."""
        return torch.randn(*shape, generator=self.generator).to(dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """float32 whole numbers: sums of their products are exact in any order."""
        return torch.randint(low, high + 1, shape, generator=self.generator).float()

    def picks(self, rows: int, of: int, count: int) -> Tensor:
        """int64 [rows, count]: for each row different numbers below `of`."""
        order = torch.rand(rows, of, generator=self.generator).argsort(-1)
        return order[:, :count].contiguous()

    def turns(self, tokens: int, pairs: int, start: int = 0) -> Tensor:
        """RoPE rotations [tokens, pairs] at positions from `start` on."""
        frequencies_P = 10000.0 ** -torch.linspace(0, 1, pairs)
        return rotations(frequencies_P, torch.arange(start, start + tokens))

    def stored(self, dtype: str, rows: int, columns: int, experts: int = 0) -> StoredMatrix:
        """Weights in a stored format; their products with unit-RMS rows have unit RMS."""
        drawn = [self.noise(rows, columns).numpy() for _ in range(max(experts, 1))]
        parts = [_store(dtype, w * np.float32(columns**-0.5)) for w in drawn]
        scale = [part[1] for part in parts if part[1] is not None]
        data, group = [part[0] for part in parts], 0
        if dtype == "V3":
            dtype = "F8_E4M3"
        elif dtype.startswith("INT8_"):
            dtype, group = "INT8", int(dtype.removeprefix("INT8_"))
        return StoredMatrix(dtype, data, scale or None, stacked=experts > 0, group=group)


def _store(dtype: str, w_OI: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Elements and scales of `w_OI` in a stored format."""
    if dtype in ("F8_E4M3", "I8"):
        codes, scales = (fp8_block if dtype == "F8_E4M3" else fp4_block).quantize(w_OI)
        return codes, ue8m0.encode(scales)
    if dtype == "V3":
        quantized = quantize(w_OI, find_format("fp8_block128_fp32"))
        return quantized.codes_OI, quantized.scale_PQ
    if dtype.startswith("INT8"):
        group = int(dtype.partition("_")[2] or w_OI.shape[1])
        return _store_int8(w_OI, group, np.float32 if dtype == "INT8" else np.float16)
    if dtype == "BF16":
        return (w_OI.view(np.uint32) >> 16).astype(np.uint16), None
    return w_OI, None


def _store_int8(
    w_OI: NDArray[np.float32], group: int, dtype: type[np.floating]
) -> tuple[NDArray[np.int8], NDArray[np.floating]]:
    """INT8 with a scale for each `group` of a row's columns, the largest at 127."""
    columns = w_OI.shape[1]
    largest = np.maximum.reduceat(np.abs(w_OI), np.arange(0, columns, group), axis=1)
    scale = (largest / 127).astype(dtype)
    steps = np.repeat(scale.astype(np.float32), group, 1)[:, :columns]
    return np.clip(np.rint(w_OI / steps), -127, 127).astype(np.int8), scale
