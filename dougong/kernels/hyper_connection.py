"""Manifold-constrained hyper-connections (mHC): how S residual streams feed and take a sublayer.

Shapes: T tokens, S streams, D hidden size. Mixing numbers keep T as the last dim, so that the 20
Sinkhorn rounds over 4 x 4 matrices run along contiguous memory.
Source: architecture specification 3 and traps 9, 10.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dougong.kernels.dtypes import widen


def _mixing(streams_TSD: Tensor, fn: Tensor, norm_eps: float) -> Tensor:
    """fn @ flatten(streams) times the inverse RMS of the flattened streams: [rows of fn, T]."""
    flat_TX = widen(streams_TSD.flatten(1))
    inverse_rms_T = torch.rsqrt(flat_TX.square().mean(-1) + norm_eps)
    return fn @ flat_TX.t() * inverse_rms_T


def sinkhorn(a_SST: Tensor, iterations: int, eps: float) -> Tensor:
    """Makes each token's matrix nearly doubly stochastic: column sums 1 - eps, row sums close.

    Softmax over rows and one column normalization count as the first iteration; every further one
    normalizes rows, then columns.
    """
    p_SST = torch.softmax(a_SST, 1) + eps
    p_SST = p_SST / (p_SST.sum(0, keepdim=True) + eps)
    for _ in range(iterations - 1):
        p_SST = p_SST / (p_SST.sum(1, keepdim=True) + eps)
        p_SST = p_SST / (p_SST.sum(0, keepdim=True) + eps)
    return p_SST


def mhc_pre(
    streams_TSD: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    *,
    iterations: int,
    hc_eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Collapses the streams into a sublayer's input and computes how its output is spread again.

    Args:    fn [S * (2 + S), S * D], base [S * (2 + S)], scale [3], all in the wide dtype, rows
             ordered pre | post | comb (row-major).
    Returns: x_TD in the streams' dtype; post_ST and comb_SST (wide) for `mhc_post`.
    """
    num_streams = streams_TSD.shape[1]
    mix = _mixing(streams_TSD, fn, norm_eps)
    pre, post, comb = mix.split([num_streams, num_streams, num_streams**2])
    base_pre, base_post, base_comb = base[:, None].split([num_streams, num_streams, num_streams**2])
    pre_ST = torch.sigmoid(pre * scale[0] + base_pre) + hc_eps
    post_ST = 2 * torch.sigmoid(post * scale[1] + base_post)
    comb_SST = (comb * scale[2] + base_comb).unflatten(0, (num_streams, num_streams))
    return _collapse(streams_TSD, pre_ST), post_ST, sinkhorn(comb_SST, iterations, hc_eps)


def mhc_post(y_TD: Tensor, streams_TSD: Tensor, post_ST: Tensor, comb_SST: Tensor) -> Tensor:
    """New streams: h'_k = post_k * y + sum_j comb[j, k] * h_j (the matrix applied transposed)."""
    # contiguous: bmm on a permuted batch of 4 x 4 matrices loops over the batch, 10x slower
    mixed_TSD = torch.bmm(comb_SST.permute(2, 1, 0).contiguous(), widen(streams_TSD))
    return (post_ST.t()[..., None] * widen(y_TD)[:, None] + mixed_TSD).to(streams_TSD.dtype)


def mhc_head(
    streams_TSD: Tensor, fn: Tensor, base: Tensor, scale: Tensor, *, hc_eps: float, norm_eps: float
) -> Tensor:
    """The final collapse: a sigmoid-weighted sum of the streams, not normalized: [T, D]."""
    mix_ST = _mixing(streams_TSD, fn, norm_eps)
    return _collapse(streams_TSD, torch.sigmoid(mix_ST * scale + base[:, None]) + hc_eps)


def _collapse(streams_TSD: Tensor, weight_ST: Tensor) -> Tensor:
    """sum_j weight_j * h_j, wide inside: [T, D] in the streams' dtype."""
    x_T1D = torch.bmm(weight_ST.t().contiguous()[:, None], widen(streams_TSD))
    return x_T1D[:, 0].to(streams_TSD.dtype)
