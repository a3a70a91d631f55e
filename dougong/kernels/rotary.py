"""Rotary position embedding: interleaved pairs in the last channels, as complex rotations.

Shapes: N tokens, P rope pairs, C channels of which the last 2 * P are rotated.
Source: architecture specification 2.1 and traps 1-3, 31.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dougong.config import RopeScaling
from dougong.kernels.dtypes import widen


def frequencies(rope_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Angular frequencies [rope_dim / 2] in fp32, YaRN applied where `scaling` is given.

    YaRN interpolates the slow channels by `factor` and leaves the fast ones; V4 uses no magnitude
    factor, and applies it at every position, not only beyond the original length.
    """
    exponent = torch.arange(0, rope_dim, 2, dtype=torch.float32) / rope_dim
    freqs_P = 1.0 / (theta**exponent)
    if scaling is None:
        return freqs_P

    def correction(rotations: float) -> float:
        span = scaling.original_max_position_embeddings / (rotations * 2 * math.pi)
        return rope_dim * math.log(span) / (2 * math.log(theta))

    low = max(math.floor(correction(scaling.beta_fast)), 0)
    high = min(math.ceil(correction(scaling.beta_slow)), rope_dim - 1)
    width = high - low if high != low else 0.001
    ramp_P = ((torch.arange(rope_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return freqs_P * (1 - ramp_P) + freqs_P / scaling.factor * ramp_P


def rotations(freqs_P: Tensor, positions_N: Tensor) -> Tensor:
    """Unit complex numbers [N, P] at integer positions.

    The angle is the fp32 product of an fp32 position and an fp32 frequency: near position 1M it is
    a few 1e-2 rad off, and so is the release's, which we reproduce.
    """
    angle_NP = torch.outer(positions_N.to(torch.float32), freqs_P)
    return torch.polar(torch.ones_like(angle_NP), angle_NP)


def rotate(x: Tensor, rotation_NP: Tensor, *, inverse: bool = False) -> Tensor:
    """Rotates the last 2P channels of `x` [N, C] or [N, H, C]; computes in the wide dtype."""
    rope_dim = 2 * rotation_NP.shape[-1]
    wide = widen(x[..., -rope_dim:])
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    turn = rotation_NP.conj() if inverse else rotation_NP
    turn = turn.to(pairs.dtype)
    pairs = pairs * (turn[:, None] if x.dim() == 3 else turn)
    rotated = torch.view_as_real(pairs).flatten(-2).to(x.dtype)
    return torch.cat([x[..., :-rope_dim], rotated], -1)
