"""BF16: the upper half of a float32, here as uint16 because numpy has no such type."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_QUIET_NAN = 0x7FC0


def decode(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The exact values of `codes`; same shape."""
    return (np.asarray(codes).astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode(x: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The codes nearest to `x` (read as float32), ties to even; same shape.

    As IEEE rounds: values beyond the largest finite BF16 become infinite, NaN stays NaN.
    """
    x = np.ascontiguousarray(x, np.float32)
    bits = x.view(np.uint32)
    # Adding half of the last kept bit, less one where that bit is even, makes truncation round.
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(_QUIET_NAN), rounded)
