"""mHC modules: the connection around a sublayer, and the final head.

Shapes: T tokens, S streams, D hidden size.
"""

from __future__ import annotations

from torch import Tensor, nn

from dougong.config import V4Config
from dougong.model.layers import Build, parameter


class HyperConnection(nn.Module):
    """How S streams feed one sublayer and take its output back. Parameters: fn, base, scale."""

    def __init__(self, build: Build, config: V4Config) -> None:
        super().__init__()
        self.build, self.config = build, config
        streams = config.hc_mult
        rows = streams * (2 + streams)
        self.fn = parameter(rows, streams * config.hidden_size, dtype=build.wide)
        self.base = parameter(rows, dtype=build.wide)
        self.scale = parameter(3, dtype=build.wide)

    def collapse(self, streams_TSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sublayer's input [T, D], and the weights that `expand` needs."""
        config = self.config
        x_TD, post_ST, comb_SST = self.build.ops.mhc_pre(
            streams_TSD,
            self.fn,
            self.base,
            self.scale,
            iterations=config.hc_sinkhorn_iters,
            hc_eps=config.hc_eps,
            norm_eps=config.rms_norm_eps,
        )
        return x_TD, post_ST, comb_SST

    def expand(self, y_TD: Tensor, streams_TSD: Tensor, post: Tensor, comb: Tensor) -> Tensor:
        """The streams after the sublayer [T, S, D]."""
        new_TSD: Tensor = self.build.ops.mhc_post(y_TD, streams_TSD, post, comb)
        return new_TSD


class HyperHead(nn.Module):
    """Collapses the streams behind the last layer. Parameters: fn [S, S * D], base [S], scale."""

    def __init__(self, build: Build, config: V4Config) -> None:
        super().__init__()
        self.build, self.config = build, config
        streams = config.hc_mult
        self.fn = parameter(streams, streams * config.hidden_size, dtype=build.wide)
        self.base = parameter(streams, dtype=build.wide)
        self.scale = parameter(1, dtype=build.wide)

    def forward(self, streams_TSD: Tensor) -> Tensor:
        """[T, D]."""
        config = self.config
        x_TD: Tensor = self.build.ops.mhc_head(
            streams_TSD,
            self.fn,
            self.base,
            self.scale,
            hc_eps=config.hc_eps,
            norm_eps=config.rms_norm_eps,
        )
        return x_TD
