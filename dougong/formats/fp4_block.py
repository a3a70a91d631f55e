"""FP4 in blocks: E2M1 elements packed two to a byte, one UE8M0 scale for 32 of a row, as stored.

The format of V4's routed experts. The low nibble is the even element.
Source: DeepSeek-V4's released files.  Dims: O rows, I columns, H = I/2 bytes, G = I/32 scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dougong.errors import ShapeError
from dougong.formats import e2m1
from dougong.formats.blocks import quantize as quantize_blocks
from dougong.formats.format import FP4

BLOCK = 32
# Both elements of every byte, side by side, so that unpacking is one look-up.
_BYTES = np.arange(256, dtype=np.uint8)
_PAIRS = np.stack(
    [e2m1.decode(_BYTES & np.uint8(15)), e2m1.decode(_BYTES >> np.uint8(4))], axis=-1
).view(np.float64)[:, 0]


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit codes [..., I] to a byte [..., I/2]; raises ShapeError if I is odd."""
    if codes.ndim == 0 or codes.shape[-1] % 2:
        raise ShapeError(f"Packing FP4 needs an even last dim, got shape {list(codes.shape)}.")
    return codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The codes [..., I] of bytes [..., I/2], one to a byte."""
    return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(
        *packed.shape[:-1], -1
    )


def quantize(w_OI: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Packed codes [O, H] and scales [O, G]: powers of two at or above each block's amax / 6.

    A matrix that came from this format keeps its values (see `fp8_block.quantize`). A block of
    zeros has scale 1. Raises ShapeError unless w is a matrix with a multiple of 32 columns,
    InputError if it holds NaN or infinity.
    """
    if w_OI.ndim != 2 or w_OI.shape[1] % BLOCK:
        raise ShapeError(
            f"FP4 blocks need a matrix with a multiple of {BLOCK} columns, "
            f"got shape {list(w_OI.shape)}."
        )
    quantized = quantize_blocks(w_OI, FP4)
    assert quantized.scale_PQ is not None
    return pack(quantized.codes_OI), quantized.scale_PQ


def dequantize(packed_OH: NDArray[np.uint8], scale_OG: NDArray[np.float32]) -> NDArray[np.float32]:
    """The exact float32 values [O, I]; raises ShapeError if the scales do not fit the bytes."""
    rows, half = packed_OH.shape if packed_OH.ndim == 2 else (-1, -1)
    if half * 2 % BLOCK or scale_OG.shape != (rows, half * 2 // BLOCK):
        raise ShapeError(
            f"FP4 bytes {list(packed_OH.shape)} do not fit scales {list(scale_OG.shape)}."
        )
    w_OGB = _PAIRS[packed_OH].view(np.float32).reshape(rows, -1, BLOCK)
    with np.errstate(over="ignore"):  # 6 * 2**126 is infinite; who reads weights refuses that
        w_OGB *= scale_OG[..., None]
    return w_OGB.reshape(rows, half * 2)
