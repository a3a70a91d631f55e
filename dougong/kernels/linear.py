"""Matrix products: plain and wide linear, grouped output projection, and the loss of the logits.

Shapes: T tokens, D in, F out, G groups, L output rank of a group, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.kernels.dtypes import wide
from dougong.kernels.rounding import LINEAR_GROUP, round_e4m3


def linear(x: Tensor, weight_FD: Tensor, *, rounded: bool = False) -> Tensor:
    """x @ weight^T; `rounded` quantizes x to FP8 first, as in front of an FP8 or FP4 matrix."""
    return F.linear(round_e4m3(x, LINEAR_GROUP) if rounded else x, weight_FD)


def grouped_projection(o_THC: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Block-diagonal product: heads in `groups` contiguous runs, each by its own matrix.

    Args:    o_THC: attention output; weight [G * L, H / G * C], rank 2 as in the checkpoint.
    Returns: [T, G * L], the groups side by side. Never rounded: the release computes it in BF16.
    """
    o_GTX = o_THC.unflatten(1, (groups, -1)).flatten(2).transpose(0, 1)
    weight_GXL = weight.unflatten(0, (groups, -1)).transpose(1, 2)
    return torch.bmm(o_GTX, weight_GXL).transpose(0, 1).flatten(1)


def wide_linear(x: Tensor, weight_FD: Tensor) -> Tensor:
    """x @ weight^T in the wide dtype: compressors, and the logits of every vocabulary entry."""
    dtype = wide(x.dtype)
    return F.linear(x.to(dtype), weight_FD.to(dtype))


def weighted_cross_entropy(logits_TV: Tensor, target_T: Tensor, weight_T: Tensor) -> Tensor:
    """Mean of the tokens' cross entropies, each counted by its weight."""
    each_T = F.cross_entropy(logits_TV, target_T, reduction="none")
    return (each_T * weight_T).sum() / weight_T.sum().clamp_min(1e-9)


def cross_entropy(
    x_TD: Tensor,
    head_VD: Tensor,
    target_T: Tensor,
    weight_T: Tensor,
    product: Callable[..., Tensor] = wide_linear,
) -> Tensor:
    """`weighted_cross_entropy` of the logits x @ head^T."""
    return weighted_cross_entropy(product(x_TD, head_VD), target_T, weight_T)
