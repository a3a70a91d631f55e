"""Tensors as the native library sees them: checked, then handed over as pointers."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dougong.errors import BackendError, ShapeError
from dougong.kernels.cpu.library import BF16, E2M1, E4M3, F32, INT8, Matrix
from dougong.kernels.stored import StoredMatrix

DTYPES = {torch.float32: F32, torch.bfloat16: BF16}
FORMATS = {"F32": F32, "BF16": BF16, "F8_E4M3": E4M3, "I8": E2M1, "INT8": INT8}
Weight = Tensor | StoredMatrix


def dtype_code(x: Tensor, name: str) -> int:
    """0 for float32, 1 for bfloat16; ShapeError otherwise, and for other devices."""
    code = DTYPES.get(x.dtype)
    if code is None or x.device.type != "cpu":
        raise ShapeError(
            f"{name}: {x.dtype} on {x.device}; backend cpu computes float32 or bfloat16 on the CPU"
        )
    return code


def inference_only(*tensors: Weight | None) -> None:
    """Refuses to drop a gradient in silence."""
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in tensors):
        raise BackendError(
            "backend cpu computes no gradients; use torch.inference_mode(), or train with the "
            "reference backend"
        )


def contiguous(x: Tensor, name: str, *shape: int) -> Tensor:
    """`x` laid out row by row; raises ShapeError unless its shape is `shape` (-1: any)."""
    if len(shape) != x.dim() or any(want not in (-1, got) for want, got in zip(shape, x.shape)):  # noqa: B905
        raise ShapeError(f"{name}: shape {list(x.shape)}, expected {list(shape)} (-1: any)")
    return x if x.is_contiguous() else x.contiguous()


def floats(x: Tensor, name: str, *shape: int) -> Tensor:
    """`contiguous`, and float32: ShapeError otherwise."""
    if x.dtype != torch.float32:
        raise ShapeError(f"{name}: {x.dtype}; backend cpu expects float32")
    return contiguous(x, name, *shape)


def indices(x: Tensor, name: str, limit: int, *shape: int) -> Tensor:
    """`contiguous` int64 below `limit` and not below -1; raises ShapeError otherwise."""
    if x.dtype != torch.int64:
        raise ShapeError(f"{name}: {x.dtype}; expected int64")
    if x.numel() and not -1 <= int(x.min()) <= int(x.max()) < limit:
        raise ShapeError(
            f"{name}: indices {int(x.min())} to {int(x.max())}, expected below {limit}"
        )
    return contiguous(x, name, *shape)


def matrices(weight: Weight, name: str) -> ctypes.Array[Matrix]:
    """The native descriptions of one matrix, or of each expert's. They live as long as `weight`."""
    if isinstance(weight, StoredMatrix):
        if weight.handle is None:
            count = len(weight.data)
            weight.handle = (Matrix * count)(*(_describe_stored(weight, i) for i in range(count)))
        handle: ctypes.Array[Matrix] = weight.handle
        while weight.moved:
            i = weight.moved.pop()
            handle[i] = _describe_stored(weight, i)
        return handle
    code = dtype_code(weight, name)
    if weight.dim() not in (2, 3) or not weight.is_contiguous():
        raise ShapeError(f"{name}: {list(weight.shape)}; expected contiguous matrices")
    rows, columns = weight.shape[-2:]
    count = weight.shape[0] if weight.dim() == 3 else 1
    size = rows * columns * weight.element_size()
    start = weight.data_ptr()
    found = (Matrix * count)()
    for i in range(count):
        found[i] = Matrix(start + i * size, None, rows, columns, code, 0)
    return found


def _describe_stored(weight: StoredMatrix, i: int) -> Matrix:
    data = weight.data[i].ctypes.data
    scale = weight.scale[i].ctypes.data if weight.scale else None
    code = FORMATS[weight.dtype]
    return Matrix(data, scale, weight.rows, weight.columns, code, weight.group)
