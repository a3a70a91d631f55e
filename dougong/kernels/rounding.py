"""Run-time rounding of activations as in the release (`rounding="release"`).

Every function quantizes and at once dequantizes, so callers see ordinary tensors. A value is cast
to float32 just before it is rounded, whatever the model's dtype. Gradients pass straight through.
Source: architecture specification 5.2 (linears), 5.3 (caches and indexer).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3_MAX = 448.0
E2M1_MAX = 6.0
E4M3_AMAX_MIN = 1e-4  # smallest group maximum that the release distinguishes from zero
E2M1_AMAX_MIN = 6 * 2.0**-126  # keeps the FP4 scale a normal power of two

LINEAR_GROUP = 128  # channels per scale: activations in front of an FP8 or FP4 matrix
CACHE_GROUP = 64  # non-RoPE channels of window and compressed entries
INDEX_GROUP = 32  # the indexer's queries and keys

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_VALUES = (*_E2M1, *(-value for value in _E2M1))  # of codes 0 .. 15


def pow2_ceil(x: Tensor) -> Tensor:
    """The smallest power of two >= x, exactly, for positive normal float32 `x`."""
    bits = x.view(torch.int32)
    exponent = (bits >> 23) & 0xFF
    exponent = exponent + (bits & 0x7FFFFF).ne(0).to(torch.int32)
    return (exponent << 23).view(torch.float32)


def _grouped(x: Tensor, group: int) -> Tensor:
    """Splits the last dim into groups, the last one padded with zeros: [..., ceil(n/g), g]."""
    groups: Tensor = F.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    return groups


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` in the forward pass, the gradient of `x` in the backward pass."""
    rounded = rounded.to(x.dtype)
    return x + (rounded - x).detach() if x.requires_grad else rounded


def _nearest(x_G: Tensor, smallest_normal: Tensor, mantissa_bits: int) -> Tensor:
    """float32 `x_G` at the nearest value of a format with this mantissa, ties to even.

    Neighbours lie a power of two apart that follows from |x|'s own exponent, and below the smallest
    normal number from that one's. No value may exceed the format's largest.
    """
    exponent = x_G.abs().maximum(smallest_normal).view(torch.int32) & 0x7F800000
    spacing = exponent.view(torch.float32) * 2.0**-mantissa_bits
    return (x_G / spacing).round_().mul_(spacing)


def round_e4m3(x: Tensor, group: int) -> Tensor:
    """Rounds the last dim to FP8 E4M3 with one power-of-two scale per `group` channels.

    scale = pow2_ceil(max(|x|, 1e-4) / 448); value = e4m3(x / scale) * scale, nearest even.
    """
    x_G = _grouped(x.detach().float(), group)
    rounded = _nearest(x_G, _e4m3_scale(x_G) * 2.0**-6, mantissa_bits=3)
    return _straight_through(x, rounded.flatten(-2)[..., : x.shape[-1]])


def _e4m3_scale(x_G: Tensor) -> Tensor:
    amax = x_G.abs().amax(-1, keepdim=True).clamp_min(E4M3_AMAX_MIN)
    return pow2_ceil(amax * (1.0 / E4M3_MAX))


def e4m3_codes(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """FP8 codes (float8_e4m3fn) of the last dim of `x`, and their groups' scales [..., groups]."""
    x_G = _grouped(x.float(), group)
    scale = _e4m3_scale(x_G)
    codes = (x_G / scale).to(torch.float8_e4m3fn).flatten(-2)[..., : x.shape[-1]]
    return codes, scale.squeeze(-1)


def _e2m1_scale(x_G: Tensor) -> Tensor:
    amax = x_G.abs().amax(-1, keepdim=True).clamp_min(E2M1_AMAX_MIN)
    return pow2_ceil(amax * (1.0 / E2M1_MAX))


def e2m1_scale(x: Tensor, group: int) -> Tensor:
    """The FP4 scales of `round_e2m1`: [..., ceil(n / group), 1]."""
    return _e2m1_scale(_grouped(x.detach().float(), group))


def round_e2m1(x: Tensor, group: int) -> Tensor:
    """Rounds the last dim to FP4 E2M1 with one power-of-two scale per `group` channels.

    scale = pow2_ceil(max(|x|, 6 * 2^-126) / 6); ties go to the even code.
    """
    x_G = _grouped(x.detach().float(), group)
    rounded = _nearest(x_G, _e2m1_scale(x_G), mantissa_bits=1)
    return _straight_through(x, rounded.flatten(-2)[..., : x.shape[-1]])


def e2m1_codes(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """FP4 codes 0 .. 15 (uint8) of the last dim of `x`, and their groups' scales [..., groups]."""
    x_G = _grouped(round_e2m1(x, group).float(), group)
    scale = _e2m1_scale(x_G)
    magnitudes = torch.tensor(E2M1_VALUES[:8], device=x.device)
    codes = torch.bucketize((x_G / scale).abs(), magnitudes) + 8 * x_G.signbit()
    return codes.to(torch.uint8).flatten(-2)[..., : x.shape[-1]], scale.squeeze(-1)


def round_cache_entry(entry: Tensor, rope_dim: int) -> Tensor:
    """Rounds the non-RoPE channels of cache entries [..., C] to FP8, 64 to a scale."""
    nope = entry.shape[-1] - rope_dim
    if nope == 0:
        return entry
    return torch.cat([round_e4m3(entry[..., :nope], CACHE_GROUP), entry[..., nope:]], -1)
