"""The compressor step of packed samples, with gradients.

Shapes: T flat tokens, M tokens of a block, X width of a token's values, D entry channels,
E entries of all samples, P rope pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dougong.kernels import compressor as reference
from dougong.kernels.cpu import compressor as forward_only
from dougong.kernels.cpu.streams import FP8_CACHE, NO_ROUNDING
from dougong.kernels.paged import Place, Spans
from dougong.kernels.training.library import PackPool, address, apply, checked, run
from dougong.kernels.training.streams import norm


def compress(
    value_TX: Tensor,
    score_TX: Tensor,
    ape_MX: Tensor,
    weight_D: Tensor,
    rotation_EP: Tensor,
    spans: Spans,
    *,
    eps: float,
    ring: Place | None,
    place: Place | None,
    dtype: torch.dtype,
    rounded: bool,
    index: bool,
) -> Tensor | None:
    """The entries [E, D] of whole samples; requests with memories go to backend cpu."""
    options: dict[str, Any] = {"eps": eps, "dtype": dtype, "rounded": rounded, "index": index}
    if ring is not None:
        return forward_only.compress(
            value_TX, score_TX, ape_MX, weight_D, rotation_EP, spans,
            ring=ring, place=place, **options,
        )  # fmt: skip
    ratio = ape_MX.shape[0]
    tokens_TX = torch.cat([value_TX, score_TX + ape_MX[spans.positions % ratio]], -1)
    overlap = ratio == reference.OVERLAP_RATIO
    pooled_ED = _packed_pool(tokens_TX, spans.lengths, ratio, overlap=overlap)
    return _finish_entry(pooled_ED, weight_D, rotation_EP, **options)


def _finish_entry(
    pooled_BD: Tensor,
    weight_D: Tensor,
    rotation_BP: Tensor,
    eps: float,
    *,
    dtype: torch.dtype,
    rounded: bool,
    index: bool,
) -> Tensor:
    """A pooled block becomes a cache entry: RMS norm, RoPE, the FP8 round trip if asked.

    Rounded index entries go through a Hadamard transform, whose gradient the reference has.
    """
    if index and rounded:
        return reference.finish_entry(
            pooled_BD, weight_D, rotation_BP, eps, dtype=dtype, rounded=rounded, index=index
        )
    rounding = FP8_CACHE if rounded else NO_ROUNDING
    return norm(pooled_BD, weight_D, rotation_BP, eps, rounding)


class _Pool(Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, own: Tensor, before: Tensor, ratio: int, overlap: bool
    ) -> Tensor:
        ctx.save_for_backward(tokens, own, before)
        ctx.constants = ratio, overlap
        width = tokens.shape[1] // 2
        pooled = tokens.new_empty(own.shape[0], width // 2 if overlap else width)
        arguments = PackPool(
            *map(address, (tokens, own, before, pooled, None, None)),
            own.shape[0], ratio, width, overlap,
        )  # fmt: skip
        run("dg_pool_forward", arguments)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_pooled: Tensor) -> Any:
        tokens, own, before = ctx.saved_tensors
        ratio, overlap = ctx.constants
        d_pooled, d_tokens = d_pooled.contiguous(), torch.zeros_like(tokens)
        arguments = PackPool(
            *map(address, (tokens, own, before, None, d_pooled, d_tokens)),
            own.shape[0], ratio, tokens.shape[1] // 2, overlap,
        )  # fmt: skip
        run("dg_pool_backward", arguments)
        return d_tokens, None, None, None, None


def _packed_pool(tokens_TX: Tensor, lengths: list[int], ratio: int, *, overlap: bool) -> Tensor:
    """Every sample's complete blocks pooled: [sum of length // ratio, X] (half of it: overlap)."""
    tokens_TX = checked(tokens_TX, "pool: tokens", sum(lengths), -1)
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    counts = torch.tensor(lengths) // ratio
    first_M = torch.repeat_interleave(starts, counts)
    block_M = torch.arange(first_M.shape[0]) - torch.repeat_interleave(
        counts.cumsum(0) - counts, counts
    )
    own_M = first_M + block_M * ratio
    before_M = torch.where(block_M > 0, own_M - ratio, -1)
    pooled: Tensor = apply(_Pool, tokens_TX, own_M, before_M, ratio, overlap)
    return pooled
