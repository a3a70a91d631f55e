"""Muon: momentum whose matrices are orthogonalized by a hybrid Newton-Schulz iteration.

Shapes: B independent matrices, N rows, M columns.
Source: architecture specification 8; DeepSeek-V4 report, optimizer section.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOMENTUM = 0.95
UPDATE_RMS = 0.18
# 8 fast rounds drive every singular value near 1, 2 slow ones settle them there.
COEFFICIENTS = ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2


def orthogonalize(matrix_BNM: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Each matrix with its singular values brought to about 1, in fp32.

    Args:    matrix_BNM: a batch of independent matrices. dtype: of the products; BF16 is enough
             (the iteration corrects its own errors).
    Cost:    30 products of B small matrices, on the shorter side.
    """
    x = matrix_BNM / matrix_BNM.norm(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    tall = x.shape[1] > x.shape[2]
    x = (x.transpose(1, 2) if tall else x).to(dtype).contiguous()
    for a, b, c in COEFFICIENTS:
        gram = torch.bmm(x, x.transpose(1, 2))
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a, alpha=1.0)
    result: Tensor = (x.transpose(1, 2) if tall else x).float()
    return result


def muon_update(grad_BNM: Tensor, momentum_BNM: Tensor) -> Tensor:
    """Advances `momentum_BNM` in place and returns the update, of RMS 0.18 for full-rank matrices.

    Nesterov: the gradient is added once more to the decayed momentum.
    """
    momentum_BNM.mul_(MOMENTUM).add_(grad_BNM)
    direction = orthogonalize(momentum_BNM * MOMENTUM + grad_BNM)
    return direction * update_scale(direction)


def update_scale(matrix_BNM: Tensor) -> float:
    """What brings orthogonalized matrices of this shape to UPDATE_RMS."""
    scale: float = max(matrix_BNM.shape[1:]) ** 0.5 * UPDATE_RMS
    return scale
