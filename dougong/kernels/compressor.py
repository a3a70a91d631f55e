"""The compressor: m tokens become one entry by a softmax over their scores, channel by channel.

Shapes: T flat tokens, N tokens of one request, B blocks (entries), M tokens of a block, X = width
of a token (D, or 2D with overlap), D entry channels, E entries of all requests, P rope pairs.
Source: architecture specification 2.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.kernels.dtypes import widen
from dougong.kernels.norm import rms_norm
from dougong.kernels.paged import Place, Span, Spans
from dougong.kernels.rotary import rotate
from dougong.kernels.rounding import INDEX_GROUP, round_cache_entry, round_e2m1

OVERLAP_RATIO = 4  # CSA: a token counts in its own block and, with other channels, in the next


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
    """One compressor step: turns every block that these tokens complete into an entry.

    Args:
        value_TX, score_TX: each token's share; `ape` is added to the score by position.
        rotation_EP: of the new entries' first positions, request by request.
        ring: pending tokens, value and score side by side; read, and the new ones written.
        place: where the entries go. Without memory (both None) they are returned instead.
        rounded, index: see `finish_entry`.
    Returns: the entries [E, D] in `dtype`, request by request; None where they went to `place`.
    """
    ratio = ape_MX.shape[0]
    score_TX = score_TX + ape_MX[spans.positions % ratio]
    tokens_TX = torch.cat([value_TX, score_TX], -1)
    parts = zip(spans, tokens_TX.split(spans.lengths), strict=True)
    pooled = [_pool_request(x_NX, span, ring, ratio, weight_D.shape[0]) for span, x_NX in parts]
    entry_ED = finish_entry(
        torch.cat(pooled), weight_D, rotation_EP, eps, dtype=dtype, rounded=rounded, index=index
    )
    if ring is None or place is None:
        return entry_ED
    remember(tokens_TX, spans, ring)
    counts = [len(entries) for entries in pooled]
    for span, entry_BD in zip(spans, entry_ED.split(counts), strict=True):
        first = span.start // ratio
        known = max(span.frozen // ratio - first, 0)
        assert span.memory is not None
        span.memory.write_entries(place, first + known, entry_BD[known:])
    return None


def remember(rows_TX: Tensor, spans: Spans, ring: Place) -> None:
    """Puts each request's newest rows into its ring."""
    for span, rows_NX in zip(spans, rows_TX.split(spans.lengths), strict=True):
        assert span.memory is not None
        newest = rows_NX[-ring.count :]
        span.memory.write_ring(ring, span.end - len(newest), ring.format.pack(newest))


def pending(position: int, ratio: int) -> int:
    """The first token that entries not complete at `position` still need."""
    before = ratio if ratio == OVERLAP_RATIO else 0
    return max(position // ratio * ratio - before, 0)


def _pool_request(
    tokens_NX: Tensor, span: Span, ring: Place | None, ratio: int, width: int
) -> Tensor:
    """The blocks that one request's new tokens complete, pooled: [B, D]."""
    first, last = span.start // ratio, span.end // ratio
    if last == first:
        return tokens_NX.new_empty(0, width)
    low = pending(span.start, ratio)
    if ring is not None and span.memory is not None:
        earlier = ring.format.unpack(span.memory.ring(ring, low, span.start), tokens_NX.dtype)
        tokens_NX = torch.cat([earlier, tokens_NX])
    value, score = tokens_NX[: last * ratio - low].unflatten(0, (-1, ratio)).chunk(2, -1)
    return pool(value, score, overlap=ratio == OVERLAP_RATIO, first=first == 0)


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
