"""The lightning indexer of CSA layers: which compressed entries a query attends to.

Shapes: T tokens, N tokens of one request, L query LoRA rank, J index heads, D index channels,
M entries, K selected entries, P rope pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dougong.config import V4Config
from dougong.kernels.index import index_scores
from dougong.model.batch import Batch
from dougong.model.compressor import Compressor
from dougong.model.layers import Build, Linear


class Indexer(nn.Module):
    """Scores entries with small heads of its own over keys from its own compressor."""

    def __init__(self, build: Build, config: V4Config, ratio: int) -> None:
        super().__init__()
        self.build, self.ratio, self.top_k = build, ratio, config.index_topk
        self.num_heads, width = config.index_n_heads, config.index_head_dim
        self.scale = width**-0.5 * self.num_heads**-0.5
        self.wq_b = Linear(build, config.q_lora_rank, self.num_heads * width, quantized=True)
        self.weights_proj = Linear(build, config.hidden_size, self.num_heads, quantized=False)
        self.compressor = Compressor(build, config, ratio, width, index=True)

    def queries(
        self, latent_TL: Tensor, x_TD: Tensor, rotation_TP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rotated index queries [T, J, D] and head weights [T, J], which may be negative."""
        q_TJD: Tensor = self.build.ops.rope_index_q(
            self.wq_b(latent_TL).unflatten(-1, (self.num_heads, -1)),
            rotation_TP,
            rounded=self.build.rounded,
        )
        return q_TJD, self.weights_proj(x_TD)

    def scores(self, q_NJD: Tensor, weight_NJ: Tensor, keys_MD: Tensor) -> Tensor:
        """Differentiable scores [N, M] of all entries, visible or not."""
        return index_scores(q_NJD, weight_NJ * self.scale, keys_MD)

    def forward(self, q_NJD: Tensor, weight_NJ: Tensor, keys_MD: Tensor, start: int) -> Tensor:
        """The selected entries [N, K] of queries at positions start, start + 1, ...; -1 = none.

        The scores' scale is left out: a positive factor changes no choice.
        """
        selected: Tensor = self.build.ops.index_select(
            q_NJD.detach(),
            weight_NJ.detach(),
            keys_MD.detach(),
            start=start,
            ratio=self.ratio,
            k=self.top_k,
        )
        return selected

    @torch.no_grad()
    def packed(
        self,
        latent_TL: Tensor,
        x_TD: Tensor,
        rotation_TP: Tensor,
        batch: Batch,
        freqs_P: Tensor,
    ) -> list[Tensor | None]:
        """For each request from position 0 its queries' entries, None where all are selected."""
        tokens_TX = self.compressor.tokens(x_TD, batch.positions_T)
        q_TJD, weight_TJ = self.queries(latent_TL, x_TD, rotation_TP)
        selected: list[Tensor | None] = []
        for segment in batch.segments:
            rows = segment.rows
            if (segment.high - segment.low) // self.ratio <= self.top_k:
                selected.append(None)
                continue
            keys_MD = self.compressor.entries(tokens_TX[rows], 0, None, freqs_P)
            selected.append(self(q_TJD[rows], weight_TJ[rows], keys_MD, 0))
        return selected
