"""Where everything that a request remembers lies: which rings, and which entries of a block.

    rings (one buffer a request)         a layer's window entries of the latest tokens, then, if it
                                         compresses, its compressors' pending tokens, in layer order
    block (128 tokens, from a pool)      CSA layer: 32 entries, then 32 index entries; HCA layer:
                                         1 entry; in layer order, without padding

With the release's rounding in BF16 entries are written as the release does (fp8, fp4: every value
lies on those grids already), otherwise in the model's dtype. Docs: docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dougong.config import V4Config
from dougong.kernels.compressor import pending
from dougong.kernels.dtypes import wide
from dougong.kernels.entries import FLOATS, EntryFormat
from dougong.kernels.paged import BLOCK_TOKENS, Place

ROLLBACK_TOKENS = 16  # a request can always take back this many tokens


@dataclass(frozen=True)
class CompressorPlaces:
    """A compressor's ring of pending tokens (value and score side by side), and its entries."""

    ratio: int
    tokens: Place
    entries: Place


@dataclass(frozen=True)
class LayerPlaces:
    """One layer's ring of window entries and, where it compresses, its compressors' places."""

    name: str
    window: Place
    compressor: CompressorPlaces | None
    indexer: CompressorPlaces | None


@dataclass(frozen=True)
class Piece:
    """Rows low .. high - 1 of one ring."""

    name: str
    place: Place
    low: int
    high: int

    @property
    def nbytes(self) -> int:
        """Bytes of these rows."""
        return (self.high - self.low) * self.place.format.nbytes


class StateLayout:
    """The places of every main layer and MTP block, and how many bytes they take together."""

    def __init__(self, config: V4Config, dtype: torch.dtype, *, rounded: bool) -> None:
        self.window = config.sliding_window
        self.num_layers = config.num_hidden_layers
        self.ring_bytes = self.block_bytes = 0
        self._dtype, self._rounded = dtype, rounded
        self.layers = [self._layer(config, i) for i in range(len(config.compress_ratios))]

    def _layer(self, config: V4Config, i: int) -> LayerPlaces:
        ratio, width, main = config.layer_ratio(i), config.head_dim, self.num_layers
        entry = EntryFormat(FLOATS[self._dtype], width)
        if self._rounded and self._dtype == torch.bfloat16:
            entry = EntryFormat("fp8", width, config.qk_rope_head_dim)
        window = self._ring(entry, self.window + ROLLBACK_TOKENS)
        index_width = config.index_head_dim
        key = EntryFormat("fp4" if self._rounded else FLOATS[self._dtype], index_width)
        return LayerPlaces(
            f"layers.{i}" if i < main else f"mtp.{i - main}",
            window,
            self._compressor(entry, ratio) if ratio else None,
            self._compressor(key, ratio) if ratio == 4 else None,
        )

    def _compressor(self, entry: EntryFormat, ratio: int) -> CompressorPlaces:
        overlap = ratio == 4
        token = EntryFormat(FLOATS[wide(self._dtype)], 2 * (2 if overlap else 1) * entry.width)
        needed = ratio * (2 if overlap else 1)  # the block begun and, for the overlap, the last one
        tokens = self._ring(token, needed + ROLLBACK_TOKENS)
        entries = Place(entry, self.block_bytes, BLOCK_TOKENS // ratio)
        self.block_bytes += entries.count * entry.nbytes
        return CompressorPlaces(ratio, tokens, entries)

    def _ring(self, row: EntryFormat, count: int) -> Place:
        place = Place(row, self.ring_bytes, count)
        self.ring_bytes += count * row.nbytes
        return place

    @property
    def bytes_per_token(self) -> float:
        """Bytes that each further token of a long context takes."""
        return self.block_bytes / BLOCK_TOKENS

    @property
    def recent_bytes(self) -> int:
        """The most bytes that a snapshot's recent part can have."""
        return self.ring_bytes + 8 * (3 + 2 * (len(self.layers) - self.num_layers))

    def recent(self, length: int, mtp_lengths: list[int], rollback: int) -> Iterator[Piece]:
        """The ring rows that going on at `length`, or up to `rollback` tokens before, still needs.

        At a multiple of 128 with `rollback` 0 that is the window but for one, and of each CSA
        compressor the four tokens before.
        """
        for i, layer in enumerate(self.layers):
            end = length if i < self.num_layers else mtp_lengths[i - self.num_layers]
            first = max(min(end, length - rollback), 0)
            low = max(first - self.window + 1, 0)
            yield Piece(f"{layer.name}.window", layer.window, low, end)
            for kind, places in (("compressor", layer.compressor), ("indexer", layer.indexer)):
                if places is not None:
                    low = pending(first, places.ratio)
                    yield Piece(f"{layer.name}.{kind}", places.tokens, low, end)
