"""V4 attention: one shared key-value vector a token, a window, and compressed entries behind it.

Shapes: T flat tokens, D hidden size, L query LoRA rank, H heads, C head_dim, K selected entries,
P rope pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dougong.config import V4Config
from dougong.kernels.paged import Place
from dougong.kernels.rotary import frequencies
from dougong.model.batch import Batch
from dougong.model.compressor import Compressor
from dougong.model.indexer import Indexer
from dougong.model.layers import Build, Linear, RMSNorm, parameter
from dougong.model.layout import LayerPlaces


@dataclass(frozen=True)
class Packed:
    """What a layer's attention over whole samples works on, for those who watch it."""

    layer: Attention
    batch: Batch
    x_TD: Tensor
    latent_TL: Tensor
    rotation_TP: Tensor
    q_THC: Tensor
    kv_TC: Tensor
    entries_MC: Tensor | None


class Attention(nn.Module):
    """One attention layer: sliding window (ratio 0), CSA (ratio 4) or HCA (ratio 128).

    Layers that compress use `compress_rope_theta` with YaRN for everything, the window included;
    window-only layers use `rope_theta` without it (trap 2).
    """

    freqs_P: Tensor

    def __init__(self, build: Build, config: V4Config, places: LayerPlaces) -> None:
        super().__init__()
        self.dense = False  # every visible entry counts, whatever the indexer says (training)
        self.watch: Callable[[Packed], None] | None = None  # told of every call without memory
        self.build, self.config, self.places = build, config, places
        self.ratio = 0 if places.compressor is None else places.compressor.ratio
        hidden, heads, head_dim = config.hidden_size, config.num_attention_heads, config.head_dim
        self.attn_sink = parameter(heads, dtype=build.wide)
        self.wq_a = Linear(build, hidden, config.q_lora_rank, quantized=True)
        self.q_norm = RMSNorm(build, config.q_lora_rank, config.rms_norm_eps)
        self.wq_b = Linear(build, config.q_lora_rank, heads * head_dim, quantized=True)
        self.wkv = Linear(build, hidden, head_dim, quantized=True)
        self.kv_norm = RMSNorm(build, head_dim, config.rms_norm_eps)
        # The release widens wo_a to BF16 and rounds nothing in front of it.
        size_in = heads // config.o_groups * head_dim
        size_out = config.o_groups * config.o_lora_rank
        self.wo_a = Linear(build, size_in, size_out, quantized=False)
        self.wo_b = Linear(build, size_out, hidden, quantized=True)
        self.compressor = self.indexer = None
        if places.compressor is not None:
            self.compressor = Compressor(build, config, places.compressor, index=False)
        if places.indexer is not None:
            self.indexer = Indexer(build, config, places.indexer)
        self.register_buffer("freqs_P", self._frequencies(), persistent=False)

    def _frequencies(self) -> Tensor:
        config = self.config
        theta = config.compress_rope_theta if self.ratio else config.rope_theta
        scaling = config.rope_scaling if self.ratio else None
        return frequencies(config.qk_rope_head_dim, theta, scaling)

    def reset_tables(self) -> None:
        """Computes the RoPE frequencies on the device of the parameters."""
        with torch.device("cpu"):  # the same bits whatever device the model is on
            self.freqs_P = self._frequencies().to(self.attn_sink.device)

    def forward(self, x_TD: Tensor, batch: Batch) -> Tensor:
        """Attends each request's tokens to its own past; memories, if there are any, go on."""
        ops, config, spans = self.build.ops, self.config, batch.spans
        rotation_TP = batch.rotations(self.freqs_P)
        latent_TL, q_THC, kv_TC = self.project(x_TD, rotation_TP)
        entries = selected_TK = None
        if self.compressor is not None:
            entries = self.compressor(x_TD, batch, self.freqs_P)
        if self.watch is not None and not isinstance(entries, Place):
            self.watch(Packed(self, batch, x_TD, latent_TL, rotation_TP, q_THC, kv_TC, entries))
        if self.indexer is not None and not self.dense:
            selected_TK = self.indexer(latent_TL, x_TD, batch, self.freqs_P)
        ring = self.places.window if spans.remembered else None
        o_THC = ops.attention(
            q_THC,
            kv_TC,
            spans,
            entries,
            selected_TK,
            self.attn_sink,
            rotation_TP,
            ring=ring,
            window=config.sliding_window,
            ratio=self.ratio,
        )
        if ring is not None:
            ops.remember(kv_TC, spans, ring)
        out: Tensor = self.wo_b(ops.grouped_projection(o_THC, self.wo_a.weight, config.o_groups))
        return out

    def project(self, x_TD: Tensor, rotation_TP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The query latents [T, L], queries [T, H, C] and window entries [T, C] of these tokens."""
        ops, config = self.build.ops, self.config
        latent_TL: Tensor = self.q_norm(self.wq_a(x_TD))
        q_THC: Tensor = self.wq_b(latent_TL).unflatten(-1, (config.num_attention_heads, -1))
        q_THC = ops.norm_rope_q(q_THC, rotation_TP, config.rms_norm_eps)
        kv_TC: Tensor = ops.norm_rope_kv(
            self.wkv(x_TD),
            self.kv_norm.weight,
            rotation_TP,
            config.rms_norm_eps,
            rounded=self.build.rounded,
        )
        return latent_TL, q_THC, kv_TC
