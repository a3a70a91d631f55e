"""Random rows and weights in every stored format, for tests of backend cpu."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dougong.formats import find_format, fp4_block, fp8_block, quantize, ue8m0
from dougong.kernels.registry import operators
from dougong.kernels.rotary import rotations
from dougong.kernels.stored import StoredMatrix

CPU = operators("cpu", fallback=False)
# The dtypes of StoredMatrix; V3 is FP8 with float32 scales, INT8 may have groups.
STORED = ("F32", "BF16", "F8_E4M3", "V3", "I8", "INT8", "INT8_32", "INT8_128")
DTYPES = (torch.float32, torch.bfloat16)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stored(dtype: str, rows: int, columns: int, seed: int = 0, experts: int = 0) -> StoredMatrix:
    """Random weights of unit-RMS products in a stored format."""
    name, _, group = dtype.partition("_")
    if name == "INT8":
        dtype, size = name, int(group or columns)
    data, scale = [], []
    for i in range(max(experts, 1)):
        w = noise(rows, columns, seed=seed + i).numpy() * columns**-0.5
        if dtype == "V3":
            quantized = quantize(w, find_format("fp8_block128_fp32"))
            data.append(quantized.codes_OI)
            scale.append(quantized.scale_PQ)
        elif dtype == "F8_E4M3":
            codes, scales = fp8_block.quantize(w)
            data.append(codes)
            scale.append(ue8m0.encode(scales))
        elif dtype == "I8":
            codes, scales = fp4_block.quantize(w)
            data.append(codes)
            scale.append(ue8m0.encode(scales))
        elif dtype == "INT8":
            starts = np.arange(0, columns, size)
            largest = np.maximum.reduceat(np.abs(w), starts, axis=1)
            scales = (largest / 127).astype(np.float16 if group else np.float32)
            steps = np.repeat(scales.astype(np.float32), size, 1)[:, :columns]
            data.append(np.clip(np.rint(w / steps), -128, 127).astype(np.int8))
            scale.append(scales)
        elif dtype == "BF16":
            data.append((w.view(np.uint32) >> 16).astype(np.uint16))
        else:
            data.append(w)
    dtype = "F8_E4M3" if dtype == "V3" else dtype
    groups = {"group": int(group)} if dtype == "INT8" and group else {}
    return StoredMatrix(dtype, data, scale or None, stacked=experts > 0, **groups)


def turns(tokens: int, pairs: int, start: int = 0) -> Tensor:
    return rotations(10000.0 ** -torch.linspace(0, 1, pairs), torch.arange(start, start + tokens))
