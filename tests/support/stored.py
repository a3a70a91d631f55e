"""Random rows and weights in every stored format, for tests of backend cpu."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dougong.formats import fp4_block, fp8_block, ue8m0
from dougong.kernels.registry import operators
from dougong.kernels.rotary import rotations
from dougong.kernels.stored import StoredMatrix

CPU = operators("cpu", fallback=False)
STORED = ("F32", "BF16", "F8_E4M3", "I8", "INT8")
DTYPES = (torch.float32, torch.bfloat16)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stored(dtype: str, rows: int, columns: int, seed: int = 0, experts: int = 0) -> StoredMatrix:
    """Random weights of unit-RMS products in a stored format."""
    data, scale = [], []
    for i in range(max(experts, 1)):
        w = noise(rows, columns, seed=seed + i).numpy() * columns**-0.5
        if dtype == "F8_E4M3":
            codes, scales = fp8_block.quantize(w)
            data.append(codes)
            scale.append(ue8m0.encode(scales))
        elif dtype == "I8":
            codes, scales = fp4_block.quantize(w)
            data.append(codes)
            scale.append(ue8m0.encode(scales))
        elif dtype == "INT8":
            scales = (np.abs(w).max(1) / 127).astype(np.float32)
            data.append(np.rint(w / scales[:, None]).astype(np.int8))
            scale.append(scales)
        elif dtype == "BF16":
            data.append((w.view(np.uint32) >> 16).astype(np.uint16))
        else:
            data.append(w)
    return StoredMatrix(dtype, data, scale or None, stacked=experts > 0)


def turns(tokens: int, pairs: int, start: int = 0) -> Tensor:
    return rotations(10000.0 ** -torch.linspace(0, 1, pairs), torch.arange(start, start + tokens))
