"""The compressor module: keeps pending tokens, emits an entry whenever a block completes.

Shapes: T flat tokens, D hidden size, M tokens of a block, X = overlap * width of a token's row.
"""

from __future__ import annotations

from torch import Tensor, nn

from dougong.config import V4Config
from dougong.kernels.compressor import OVERLAP_RATIO
from dougong.kernels.paged import Entries
from dougong.model.batch import Batch
from dougong.model.layers import Build, RMSNorm, WideLinear, parameter
from dougong.model.layout import CompressorPlaces


class Compressor(nn.Module):
    """`ratio` tokens to one entry of `width` channels; overlapping blocks at ratio 4.

    Matrices and pooling are wide: BF16 pooling collapses near-equal gates (trap 17).
    """

    def __init__(
        self,
        build: Build,
        config: V4Config,
        places: CompressorPlaces,
        *,
        index: bool,
    ) -> None:
        super().__init__()
        self.build, self.places, self.index = build, places, index
        self.ratio, width = places.ratio, places.entries.format.width
        token_width = width * (2 if self.ratio == OVERLAP_RATIO else 1)
        self.ape = parameter(self.ratio, token_width, dtype=build.wide)
        self.wkv = WideLinear(build, config.hidden_size, token_width)
        self.wgate = WideLinear(build, config.hidden_size, token_width)
        self.norm = RMSNorm(build, width, config.rms_norm_eps)

    def forward(self, x_TD: Tensor, batch: Batch, freqs_P: Tensor) -> Entries:
        """All entries behind these tokens: where they are, or a dense tensor [E, width]."""
        places = self.places if batch.spans.remembered else None
        dense: Tensor = self.build.ops.compress(
            self.wkv(x_TD),
            self.wgate(x_TD),
            self.ape,
            self.norm.weight,
            batch.entry_rotations(freqs_P, self.ratio),
            batch.spans,
            eps=self.norm.eps,
            ring=None if places is None else places.tokens,
            place=None if places is None else places.entries,
            dtype=self.build.dtype,
            rounded=self.build.rounded,
            index=self.index,
        )
        return places.entries if places else dense
