"""Matrices in the format of a checkpoint: bytes and scales, never widened as a whole.

Shapes: E experts, O rows (out), I columns (in).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dougong.errors import CheckpointError, ShapeError
from dougong.formats import bf16, fp4_block, fp8_block, ue8m0

# Scale bytes for which every value times its scale is a normal bf16.
INT8_GROUP = 32
SCALE_BYTES = {"F8_E4M3": (10, 246), "I8": (2, 252)}
_PIECE = 2**18  # values looked at together: their copies stay in cache
FORMATS = ("F32", "BF16", "F8_E4M3", "I8", "INT8")


class StoredMatrix:
    """One matrix [O, I], or one for each expert [E, O, I], in format `dtype`.

    F32 float32, BF16 uint16 bits, F8_E4M3 uint8 codes with scales of 128x128 blocks, UE8M0 (V4) or
    float32 (V3), I8 packed FP4 with UE8M0 scales of 32, INT8 int8 with a float32 or float16 scale
    for each row, or for each `group` of its columns. `data` and `scale` hold one array per expert;
    arrays are used where they are and may be mapped files, but float16 scales are widened.

    group: columns that share a float scale, 0 where scales are UE8M0 or there are none.
    """

    def __init__(
        self,
        dtype: str,
        data: Sequence[NDArray[Any]],
        scale: Sequence[NDArray[Any]] | None = None,
        *,
        stacked: bool = False,
        group: int = 0,
        checked: bool = True,
    ) -> None:
        """Raises ShapeError if data and scales do not fit, and as `check_values` does, which reads
        all data and can be left for later: `checked` False.

        group: columns that share a scale of INT8, a multiple of 32; 0: a row has one scale.
        """
        if dtype not in FORMATS or not data or (not stacked and len(data) != 1):
            raise ShapeError(f"stored matrix: {len(data)} arrays of format {dtype} are no matrix")
        self.dtype, self.data, self.scale = dtype, list(data), list(scale or ())
        rows, columns = data[0].shape
        self.rows, self.columns = rows, columns * 2 if dtype == "I8" else columns
        self.shape = torch.Size(([len(data)] if stacked else []) + [rows, self.columns])
        self.group = self._float_group(group)
        if dtype == "INT8":
            self.scale = [np.asarray(s, np.float32).reshape(len(s), -1) for s in self.scale]
        for i, array in enumerate(self.data):
            self._check_shape(array, self.scale[i] if self.scale else None)
        self.handle: Any = None  # what a backend keeps about this matrix
        self.moved: set[int] = set()  # experts whose arrays it has to look up again
        if checked:
            self.check_values()

    def _float_group(self, group: int) -> int:
        if group % INT8_GROUP or (group and self.dtype != "INT8"):
            raise ShapeError(
                f"stored matrix in {self.dtype}: scales for {group} columns; only INT8 has "
                f"groups of columns, a multiple of {INT8_GROUP}"
            )
        if self.dtype == "INT8":
            return group or self.columns
        has_floats = self.scale and self.scale[0].dtype == np.float32
        return fp8_block.BLOCK if self.dtype == "F8_E4M3" and has_floats else 0

    def _check_shape(self, data: NDArray[Any], scale: NDArray[Any] | None) -> None:
        if data.shape != self.data[0].shape or not data.flags.c_contiguous:
            raise ShapeError(f"stored matrix: an array of shape {list(data.shape)} does not fit")
        wanted = {
            "F8_E4M3": fp8_block.scale_shape(self.rows, self.columns),
            "I8": (self.rows, self.columns // fp4_block.BLOCK),
            "INT8": (self.rows, -(-self.columns // max(self.group, 1))),
        }.get(self.dtype)
        got = None if scale is None else scale.shape
        if got != wanted or (self.dtype == "I8" and self.columns % fp4_block.BLOCK):
            raise ShapeError(
                f"stored matrix {list(self.shape)} in {self.dtype}: scales {got}, expected {wanted}"
            )

    def check_values(self) -> None:
        """Raises CheckpointError for what cannot be computed with: NaN, infinity, scales beyond
        `SCALE_BYTES`. Of FP4 only the scales are read: every code is a number.
        """
        for i, data in enumerate(self.data):
            self.check_values_of(data, self.scale[i] if self.scale else None)

    def check_values_of(self, data: NDArray[Any], scale: NDArray[Any] | None) -> None:
        """`check_values` of one expert's arrays, wherever they are."""
        if self.group and scale is not None and not np.isfinite(scale).all():
            raise CheckpointError(f"stored matrix {list(self.shape)} has NaN or infinite scales.")
        if self.dtype in SCALE_BYTES and not self.group and scale is not None and scale.size:
            low, high = SCALE_BYTES[self.dtype]
            if not low <= int(scale.min()) <= int(scale.max()) <= high:
                raise CheckpointError(
                    f"stored matrix {list(self.shape)}: UE8M0 scales {int(scale.min())} to "
                    f"{int(scale.max())}; expected {low} to {high}, so that values fit in BF16."
                )
        if not _finite(self.dtype, data):
            raise CheckpointError(f"stored matrix {list(self.shape)} holds NaN or infinity.")

    def place(self, i: int, data: NDArray[Any], scale: NDArray[Any] | None) -> None:
        """Takes expert i from other arrays with the same bytes from now on."""
        self.data[i] = data
        if scale is not None:
            self.scale[i] = scale
        self.moved.add(i)

    @property
    def nbytes(self) -> int:
        """Bytes of elements and scales."""
        return sum(array.nbytes for array in self.data + self.scale)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values, widened exactly (then rounded to `dtype`): a new tensor of `shape`."""
        parts = [
            torch.from_numpy(
                _widen(self.dtype, data, self.scale[i] if self.scale else None, self.group)
            )
            for i, data in enumerate(self.data)
        ]
        whole = torch.stack(parts) if len(self.shape) == 3 else parts[0]
        return whole.to(dtype)

    def gather(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows `ids` of a single float matrix: [len(ids), I] in `dtype`.

        Raises CheckpointError if one holds NaN or infinity.
        """
        rows = self.data[0][ids.numpy()]
        self.check_values_of(rows, None)
        if self.dtype == "BF16":
            return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16).to(dtype)
        return torch.from_numpy(_widen(self.dtype, rows, None, 0)).to(dtype)


def _finite(dtype: str, data: NDArray[Any]) -> bool:
    if dtype not in ("F32", "BF16", "F8_E4M3"):
        return True  # FP4 and INT8 have neither NaN nor infinity
    flat = data.reshape(-1)
    pieces = (flat[low : low + _PIECE] for low in range(0, flat.size, _PIECE))
    if dtype == "F32":
        return all(bool(np.isfinite(piece).all()) for piece in pieces)
    magnitude, limit = (0x7FFF, 0x7F80) if dtype == "BF16" else (0x7F, 0x7F)
    return all(int((piece & magnitude).max()) < limit for piece in pieces)


def _widen(
    dtype: str, data: NDArray[Any], scale: NDArray[Any] | None, group: int
) -> NDArray[np.float32]:
    if dtype == "BF16":
        return bf16.decode(data)
    values = np.array(data, np.float32)
    if dtype == "F32" or scale is None:
        return values
    if dtype == "INT8":
        values *= np.repeat(scale, group, 1)[:, : data.shape[1]]
        return values
    block = fp4_block if dtype == "I8" else fp8_block
    scales = scale if scale.dtype == np.float32 else ue8m0.decode(scale)
    wide: NDArray[np.float32] = block.dequantize(data, scales)
    return wide
