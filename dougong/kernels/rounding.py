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

# Magnitudes halfway between neighbours of 0, 0.5, 1, 1.5, 2, 3, 4, 6: the bounds of the codes.
_E2M1_BOUNDS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_E2M1_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_VALUES = (*_E2M1_MAGNITUDES, *(-value for value in _E2M1_MAGNITUDES))  # of codes 0 .. 15


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


def e4m3_groups(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Codes (float8_e4m3fn [..., groups, group]) and scales [..., groups, 1] of the last dim.

    scale = pow2_ceil(max(|x|, 1e-4) / 448); code = e4m3(x / scale), nearest even.
    """
    x_G = _grouped(x.detach().float(), group)
    amax = x_G.abs().amax(-1, keepdim=True).clamp_min(E4M3_AMAX_MIN)
    scale = pow2_ceil(amax * (1.0 / E4M3_MAX))
    return (x_G / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale


def e2m1_groups(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Codes (int64 0 .. 15 [..., groups, group]) and scales [..., groups, 1] of the last dim.

    scale = pow2_ceil(max(|x|, 6 * 2^-126) / 6); ties go to the even code.
    """
    x_G = _grouped(x.detach().float(), group)
    amax = x_G.abs().amax(-1, keepdim=True).clamp_min(E2M1_AMAX_MIN)
    scale = pow2_ceil(amax * (1.0 / E2M1_MAX))
    value = (x_G / scale).clamp(-E2M1_MAX, E2M1_MAX)
    bounds = torch.tensor(_E2M1_BOUNDS, device=x.device)
    below = torch.bucketize(value.abs(), bounds)  # a tie goes to the lower code ...
    above = torch.bucketize(value.abs(), bounds, right=True)  # ... or to the upper one
    return torch.where(below % 2 == 0, below, above) + 8 * value.signbit(), scale


def round_e4m3(x: Tensor, group: int) -> Tensor:
    """Rounds the last dim to FP8 E4M3 with one power-of-two scale per `group` channels."""
    code, scale = e4m3_groups(x, group)
    rounded = (code.float() * scale).flatten(-2)[..., : x.shape[-1]]
    return _straight_through(x, rounded)


def round_e2m1(x: Tensor, group: int) -> Tensor:
    """Rounds the last dim to FP4 E2M1 with one power-of-two scale per `group` channels."""
    code, scale = e2m1_groups(x, group)
    values = torch.tensor(E2M1_VALUES, device=x.device)
    rounded = (values[code] * scale).flatten(-2)[..., : x.shape[-1]]
    return _straight_through(x, rounded)


def round_cache_entry(entry: Tensor, rope_dim: int) -> Tensor:
    """Rounds the non-RoPE channels of cache entries [..., C] to FP8, 64 to a scale."""
    nope = entry.shape[-1] - rope_dim
    if nope == 0:
        return entry
    return torch.cat([round_e4m3(entry[..., :nope], CACHE_GROUP), entry[..., nope:]], -1)
