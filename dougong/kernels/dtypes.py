"""Which arithmetic is done wider than the activations."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the model's fp32 islands: float64 for a float64 model, else float32.

    Norms, RoPE, mHC, the compressor, the router, SwiGLU, softmax and the logits run in it.
    Source: architecture specification 5.5, the dtype map of the release.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(x: Tensor) -> Tensor:
    """`x` in the dtype of the fp32 islands; no copy when it is there already."""
    return x.to(wide(x.dtype))
