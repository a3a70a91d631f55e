"""The smallest building blocks: parameters with their dtype, linear and RMS norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.kernels.dtypes import wide
from dougong.kernels.registry import Operators
from dougong.kernels.stored import StoredMatrix

Weight = nn.Parameter | StoredMatrix  # dense and trainable, or as the checkpoint stores it


@dataclass
class Build:
    """What every module needs to know besides the configuration: one object for a whole model.

    `rounded`: add the release's run-time rounding of caches and index vectors
    (`rounding="release"`); `rounded_inputs`: and of what enters an FP8 or FP4 matrix, which only a
    quantized checkpoint has. Training for such a checkpoint turns both on and off.
    """

    ops: Operators
    dtype: torch.dtype
    rounded: bool
    rounded_inputs: bool = False

    @property
    def wide(self) -> torch.dtype:
        """The dtype of the fp32 islands and of their parameters."""
        return wide(self.dtype)


def parameter(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """An uninitialized parameter; `Transformer.initialize` or a checkpoint fills it."""
    return nn.Parameter(torch.empty(*shape, dtype=dtype))


class Embedding(nn.Module):
    """One row [size] for each token id."""

    def __init__(self, build: Build, num_ids: int, size: int) -> None:
        super().__init__()
        self.build = build
        self.weight: Weight = parameter(num_ids, size, dtype=build.dtype)

    def forward(self, ids_T: Tensor) -> Tensor:
        """[T, size]."""
        if isinstance(self.weight, StoredMatrix):
            return self.weight.gather(ids_T, self.build.dtype)
        return F.embedding(ids_T, self.weight)


class Linear(nn.Module):
    """A bias-free matrix [out, in]; `quantized`: stored as FP8, so its input may be rounded."""

    def __init__(self, build: Build, size_in: int, size_out: int, *, quantized: bool) -> None:
        super().__init__()
        self.build, self.ops, self.quantized = build, build.ops, quantized
        self.weight: Weight = parameter(size_out, size_in, dtype=build.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x @ weight^T over the last dim."""
        rounded = self.quantized and self.build.rounded_inputs
        y: Tensor = self.ops.linear(x, self.weight, rounded=rounded)
        return y


class WideLinear(Linear):
    """A matrix kept and multiplied in the wide dtype; its input is widened, never rounded."""

    def __init__(self, build: Build, size_in: int, size_out: int) -> None:
        super().__init__(build, size_in, size_out, quantized=False)
        self.weight = parameter(size_out, size_in, dtype=build.wide)

    def forward(self, x: Tensor) -> Tensor:
        """x @ weight^T in the wide dtype."""
        y: Tensor = self.ops.wide_linear(x, self.weight)
        return y


class RMSNorm(nn.Module):
    """x / rms(x) * weight, wide inside."""

    def __init__(self, build: Build, size: int, eps: float) -> None:
        super().__init__()
        self.ops, self.eps = build.ops, eps
        self.weight = parameter(size, dtype=build.wide)

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes the last dim."""
        y: Tensor = self.ops.rms_norm(x, self.weight, self.eps)
        return y
