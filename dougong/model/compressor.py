"""The compressor module: keeps pending tokens, emits an entry whenever a block completes.

Shapes: N tokens of one request, D hidden size, X = 2 * overlap * width of a token's row,
M entries, P rope pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dougong.config import V4Config
from dougong.kernels.rotary import rotations
from dougong.model.layers import Build, RMSNorm, WideLinear, parameter
from dougong.model.state import CompressorState


class Compressor(nn.Module):
    """`ratio` tokens to one entry of `width` channels; overlapping blocks at ratio 4.

    Matrices and pooling are wide: BF16 pooling collapses near-equal gates (trap 17).
    """

    def __init__(
        self, build: Build, config: V4Config, ratio: int, width: int, *, index: bool
    ) -> None:
        super().__init__()
        self.build, self.ratio, self.index = build, ratio, index
        self.overlap = ratio == 4
        token_width = width * (2 if self.overlap else 1)
        self.ape = parameter(ratio, token_width, dtype=build.wide)
        self.wkv = WideLinear(build, config.hidden_size, token_width)
        self.wgate = WideLinear(build, config.hidden_size, token_width)
        self.norm = RMSNorm(build, width, config.rms_norm_eps)

    def tokens(self, x_ND: Tensor, positions_N: Tensor) -> Tensor:
        """Each token's value and score side by side [N, X]; `ape` is added to the score."""
        value: Tensor = self.wkv(x_ND)
        score: Tensor = self.wgate(x_ND) + self.ape[positions_N % self.ratio]
        return torch.cat([value, score], -1)

    def entries(
        self, tokens_NX: Tensor, start: int, state: CompressorState | None, freqs_P: Tensor
    ) -> Tensor:
        """All entries [M, width] complete after these tokens, which begin at position `start`."""
        end = start + tokens_NX.shape[0]
        if state is None:
            last = end // self.ratio
            if last == 0:
                return tokens_NX.new_empty(0, self.norm.weight.shape[0], dtype=self.build.dtype)
            return self._compress(tokens_NX[: last * self.ratio], 0, last, freqs_P)
        state.tokens.append(tokens_NX)
        self.complete(start, end, state, freqs_P)
        return state.entries.rows(0, end // self.ratio)

    def packed_entries(self, tokens_TX: Tensor, lengths: Sequence[int], freqs_P: Tensor) -> Tensor:
        """All entries [M, width] of samples laid end to end, each from its own position 0."""
        pooled = self.build.ops.packed_pool(
            tokens_TX, lengths, ratio=self.ratio, overlap=self.overlap
        )
        spans = [torch.arange(length // self.ratio) * self.ratio for length in lengths]
        return self._finish(pooled, torch.cat(spans).to(tokens_TX.device), freqs_P)

    def complete(self, start: int, end: int, state: CompressorState, freqs_P: Tensor) -> None:
        """Adds the entries that tokens start .. end - 1, which `state` has, made complete."""
        first, last = start // self.ratio, end // self.ratio
        if last > first:
            before = 1 if self.overlap and first > 0 else 0
            needed = state.tokens.rows((first - before) * self.ratio, last * self.ratio)
            state.entries.append(self._compress(needed, first, last, freqs_P))

    def _compress(self, tokens: Tensor, first: int, last: int, freqs_P: Tensor) -> Tensor:
        """Entries first .. last - 1 from their tokens (and, for the overlap, the block before)."""
        value, score = tokens.unflatten(0, (-1, self.ratio)).chunk(2, -1)
        pooled = self.build.ops.pool(value, score, overlap=self.overlap, first=first == 0)
        positions = torch.arange(first, last, device=tokens.device) * self.ratio
        return self._finish(pooled, positions, freqs_P)

    def _finish(self, pooled: Tensor, positions: Tensor, freqs_P: Tensor) -> Tensor:
        entry: Tensor = self.build.ops.finish_entry(
            pooled,
            self.norm.weight,
            rotations(freqs_P, positions),
            self.norm.eps,
            dtype=self.build.dtype,
            rounded=self.build.rounded,
            index=self.index,
        )
        return entry
