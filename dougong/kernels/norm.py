"""RMS normalization, with and without a weight, and with RoPE behind it.

Shapes: T tokens, H heads, C channels, P rope pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dougong.kernels.dtypes import widen
from dougong.kernels.rotary import rotate
from dougong.kernels.rounding import round_cache_entry


def rms_norm(x: Tensor, weight_C: Tensor | None, eps: float) -> Tensor:
    """x * rsqrt(mean(x^2) + eps) * weight over the last dim; wide inside, one cast at the end."""
    wide = widen(x)
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide if weight_C is None else wide * weight_C).to(x.dtype)


def norm_rope_q(q_THC: Tensor, rotation_TP: Tensor, eps: float) -> Tensor:
    """Weightless RMS norm of each head's query, then RoPE on its last channels: [T, H, C]."""
    return rotate(rms_norm(q_THC, None, eps), rotation_TP)


def norm_rope_kv(
    kv_TC: Tensor, weight_C: Tensor, rotation_TP: Tensor, eps: float, *, rounded: bool
) -> Tensor:
    """Each token's shared key-value entry: weighted RMS norm, RoPE, FP8 round trip if asked."""
    entry_TC = rotate(rms_norm(kv_TC, weight_C, eps), rotation_TP)
    return round_cache_entry(entry_TC, 2 * rotation_TP.shape[-1]) if rounded else entry_TC
