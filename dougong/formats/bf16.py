"""BF16: the upper half of a float32; codes are uint16, the arithmetic is ml_dtypes'."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray


def decode(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The exact values of `codes`; same shape."""
    native = np.ascontiguousarray(codes, np.uint16)  # a file's are little-endian and read-only
    values: NDArray[np.float32] = native.view(ml_dtypes.bfloat16).astype(np.float32)
    return values


def encode(x: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The codes nearest to `x` (read as float32), ties to even; same shape.

    As IEEE rounds: values beyond the largest finite BF16 become infinite, NaN stays NaN.
    """
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
