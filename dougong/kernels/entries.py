"""How one cache entry is written: float channels, or the release's FP8 + BF16 and FP4 bytes.

    float64, float32, bfloat16   the channels, little endian
    fp8    (C - R) E4M3 codes | R rope channels in BF16 | a UE8M0 scale for each 64 codes | zeros up
           to a multiple of 8 bytes: 448 + 128 + 7 + 1 = 584 at the released shapes
    fp4    C / 2 bytes of two E2M1 codes, low nibble first | a UE8M0 scale for each 32 channels:
           64 + 4 = 68 at the released shapes

What the release's rounding has gone over lies on these grids already: written so and read again,
every value is the same.

Shapes: N entries, C channels, B bytes of an entry.
Source: architecture specification 5.3, 5.4; infrastructure specification 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.errors import ShapeError
from dougong.kernels.rounding import (
    CACHE_GROUP,
    E2M1_VALUES,
    INDEX_GROUP,
    e2m1_codes,
    e4m3_codes,
)

Kind = Literal["float64", "float32", "bfloat16", "fp8", "fp4"]
FLOATS: dict[torch.dtype, Kind] = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}
_DTYPES = {kind: dtype for dtype, kind in FLOATS.items()}


@dataclass(frozen=True)
class EntryFormat:
    """One entry of `width` channels; of an fp8 entry the last `rope` stay BF16."""

    kind: Kind
    width: int
    rope: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of one entry."""
        if self.kind == "fp8":
            codes = self.width - self.rope
            return -(-(codes + 2 * self.rope + -(-codes // CACHE_GROUP)) // 8) * 8
        if self.kind == "fp4":
            return self.width // 2 + -(-self.width // INDEX_GROUP)
        return self.width * _DTYPES[self.kind].itemsize

    def pack(self, x_NC: Tensor) -> Tensor:
        """The bytes of entries: uint8 [N, B]. Raises ShapeError for another width."""
        if x_NC.dim() != 2 or x_NC.shape[1] != self.width:
            raise ShapeError(f"entries: {list(x_NC.shape)}, expected [N, {self.width}]")
        if self.kind in _DTYPES:
            return x_NC.to(_DTYPES[self.kind]).contiguous().view(torch.uint8)
        if self.kind == "fp4":
            code_NC, scale_NG = e2m1_codes(x_NC, INDEX_GROUP)
            return torch.cat([code_NC[:, ::2] | code_NC[:, 1::2] << 4, _ue8m0(scale_NG)], 1)
        codes = self.width - self.rope
        code_NC, scale_NG = e4m3_codes(x_NC[:, :codes], CACHE_GROUP)
        rope = x_NC[:, codes:].to(torch.bfloat16).contiguous().view(torch.uint8)
        whole = torch.cat([code_NC.view(torch.uint8), rope, _ue8m0(scale_NG)], 1)
        return F.pad(whole, (0, self.nbytes - whole.shape[1]))

    def unpack(self, bytes_NB: Tensor, dtype: torch.dtype) -> Tensor:
        """The channels of entries [N, C] in `dtype`."""
        if self.kind in _DTYPES:
            return bytes_NB.contiguous().view(_DTYPES[self.kind]).to(dtype)
        if self.kind == "fp4":
            packed_NB, scale_NG = bytes_NB.split(
                [self.width // 2, -(-self.width // INDEX_GROUP)], 1
            )
            code_NC = torch.stack([packed_NB & 15, packed_NB >> 4], -1).flatten(1)
            values = torch.tensor(E2M1_VALUES, device=bytes_NB.device)
            return _scaled(values[code_NC.long()], scale_NG, INDEX_GROUP).to(dtype)
        codes = self.width - self.rope
        sizes = codes, 2 * self.rope, -(-codes // CACHE_GROUP)
        code_NC, rope_NR, scale_NG, _ = bytes_NB.split([*sizes, self.nbytes - sum(sizes)], 1)
        values_NC = code_NC.contiguous().view(torch.float8_e4m3fn).float()
        rope = rope_NR.contiguous().view(torch.bfloat16).to(dtype)
        return torch.cat([_scaled(values_NC, scale_NG, CACHE_GROUP).to(dtype), rope], 1)


def _ue8m0(scale: Tensor) -> Tensor:
    """The codes of powers of two: their exponent bits."""
    return (scale.contiguous().view(torch.int32) >> 23).to(torch.uint8)


def _scaled(values_NC: Tensor, scale_NG: Tensor, group: int) -> Tensor:
    """Values times 2^(byte - 127) of their group; a byte of ours is never 0 or 255."""
    scale = (scale_NG.to(torch.int32) << 23).view(torch.float32)
    return values_NC * scale.repeat_interleave(group, 1)[:, : values_NC.shape[1]]
