"""The lightning indexer of CSA layers: which compressed entries a query attends to.

Shapes: T tokens, N tokens of one request, L query LoRA rank, J index heads, D index channels,
M entries of a request, K selected entries, P rope pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dougong.config import V4Config
from dougong.kernels.index import index_scores
from dougong.model.batch import Batch
from dougong.model.compressor import Compressor
from dougong.model.layers import Build, Linear
from dougong.model.layout import CompressorPlaces


class Indexer(nn.Module):
    """Scores entries with small heads of its own over keys from its own compressor."""

    def __init__(self, build: Build, config: V4Config, places: CompressorPlaces) -> None:
        super().__init__()
        self.build, self.ratio, self.top_k = build, places.ratio, config.index_topk
        self.num_heads, width = config.index_n_heads, config.index_head_dim
        self.scale = width**-0.5 * self.num_heads**-0.5
        self.wq_b = Linear(build, config.q_lora_rank, self.num_heads * width, quantized=True)
        self.weights_proj = Linear(build, config.hidden_size, self.num_heads, quantized=False)
        self.compressor = Compressor(build, config, places, index=True)

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

    @torch.no_grad()
    def forward(
        self, latent_TL: Tensor, x_TD: Tensor, batch: Batch, freqs_P: Tensor
    ) -> Tensor | None:
        """The selected entries [T, K] of every query, -1 = none; None: every visible entry.

        The scores' scale is left out: a positive factor changes no choice.
        """
        cuts = batch.spans.longest // self.ratio > self.top_k
        if not cuts and not batch.spans.remembered:
            return None  # nothing to choose from now, and nothing to keep for later
        keys = self.compressor(x_TD, batch, freqs_P)
        if not cuts:
            return None
        q_TJD, weight_TJ = self.queries(latent_TL, x_TD, batch.rotations(freqs_P))
        selected_TK: Tensor = self.build.ops.index_select(
            q_TJD, weight_TJ, batch.spans, keys, ratio=self.ratio, k=self.top_k
        )
        return selected_TK
