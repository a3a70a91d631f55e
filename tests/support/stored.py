"""Random rows and weights in every stored format, for tests of backend cpu."""

from __future__ import annotations

import torch
from torch import Tensor

from dougong.conform.draw import DTYPES, FORMATS, Draw
from dougong.kernels.registry import operators
from dougong.kernels.stored import StoredMatrix

__all__ = ["CPU", "DTYPES", "STORED", "noise", "stored", "turns"]

CPU = operators("cpu", fallback=False)
STORED = FORMATS


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return Draw(seed).noise(*shape, dtype=dtype)


def stored(dtype: str, rows: int, columns: int, seed: int = 0, experts: int = 0) -> StoredMatrix:
    """Random weights of unit-RMS products in a stored format."""
    return Draw(seed).stored(dtype, rows, columns, experts)


def turns(tokens: int, pairs: int, start: int = 0) -> Tensor:
    return Draw(0).turns(tokens, pairs, start)
