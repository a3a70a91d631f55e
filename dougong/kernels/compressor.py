"""The compressor: m tokens become one entry by a softmax over their scores, channel by channel.

Shapes: B blocks (entries), M tokens of a block, X = width of a token (D, or 2D with overlap),
D entry channels, P rope pairs.
Source: architecture specification 2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.kernels.dtypes import widen
from dougong.kernels.norm import rms_norm
from dougong.kernels.rotary import rotate
from dougong.kernels.rounding import INDEX_GROUP, round_cache_entry, round_e2m1


def pool(value_BMX: Tensor, score_BMX: Tensor, *, overlap: bool, first: bool) -> Tensor:
    """Softmax-weighted mean over the tokens of each block, every channel by itself: [B, D].

    With `overlap` a token carries two halves: its first half counts in the block after its own,
    its second half in its own block. The leading row of the input is then the block before the
    first entry (B + 1 rows in), unless `first`: the sequence's block 0 has nothing before it.
    """
    if not overlap:
        return (torch.softmax(score_BMX, 1) * value_BMX).sum(1)
    half = value_BMX.shape[-1] // 2
    before_value, own_value = value_BMX[..., :half], value_BMX[..., half:]
    before_score, own_score = score_BMX[..., :half], score_BMX[..., half:]
    if first:
        before_value = F.pad(before_value, (0, 0, 0, 0, 1, 0))[:-1]
        before_score = F.pad(before_score, (0, 0, 0, 0, 1, 0), value=float("-inf"))[:-1]
    else:
        before_value, own_value = before_value[:-1], own_value[1:]
        before_score, own_score = before_score[:-1], own_score[1:]
    value = torch.cat([before_value, own_value], 1)
    score = torch.cat([before_score, own_score], 1)
    return (torch.softmax(score, 1) * value).sum(1)


def packed_pool(
    tokens_TX: Tensor,
    lengths: Sequence[int],
    *,
    ratio: int,
    overlap: bool,
    pool: Callable[..., Tensor] = pool,
) -> Tensor:
    """Every sample's complete blocks pooled, samples end to end: [sum of length // ratio, D].

    Args:    tokens_TX: each token's values and scores side by side.
    """
    samples = tokens_TX.split(list(lengths))
    blocks = [x[: len(x) // ratio * ratio].unflatten(0, (-1, ratio)).chunk(2, -1) for x in samples]
    return torch.cat([pool(value, score, overlap=overlap, first=True) for value, score in blocks])


def hadamard(x: Tensor) -> Tensor:
    """The last dim, a power of two, times Sylvester's orthonormal matrix.

    By sums and differences of halves, scaled at the end: wide inside, one cast last. The order is
    part of the definition: what is rounded to FP4 behind it must not differ in its last bits.
    """
    wide, half = widen(x), 1
    while half < x.shape[-1]:
        low, high = wide.unflatten(-1, (-1, 2, half)).unbind(-2)
        wide = torch.stack([low + high, low - high], -2).flatten(-3)
        half *= 2
    scale: float = x.shape[-1] ** -0.5
    return (wide * scale).to(x.dtype)


def round_index_vector(x: Tensor) -> Tensor:
    """Hadamard rotation over the last dim, then the FP4 round trip of the indexer.

    Rotating queries and keys alike cancels in their products; only the rounding sees it.
    """
    return round_e2m1(hadamard(x), INDEX_GROUP)


def finish_entry(
    pooled_BD: Tensor,
    weight_D: Tensor,
    rotation_BP: Tensor,
    eps: float,
    *,
    dtype: torch.dtype,
    rounded: bool,
    index: bool,
) -> Tensor:
    """A pooled block becomes a cache entry: cast, RMS norm, RoPE at the block's first position.

    `rounded` adds the release's round trip: FP8 of the non-RoPE channels for attention entries,
    Hadamard and FP4 of all channels for the indexer's (`index`).
    """
    entry_BD = rotate(rms_norm(pooled_BD.to(dtype), weight_D, eps), rotation_BP)
    if not rounded:
        return entry_BD
    if index:
        return round_index_vector(entry_BD)
    return round_cache_entry(entry_BD, 2 * rotation_BP.shape[-1])
