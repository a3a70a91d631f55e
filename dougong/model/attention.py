"""V4 attention: one shared key-value vector a token, a window, and compressed entries behind it.

Shapes: T flat tokens, N tokens of one request, D hidden size, L query LoRA rank, H heads,
C head_dim, P rope pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dougong.config import V4Config
from dougong.kernels.rotary import frequencies
from dougong.model.batch import Batch
from dougong.model.compressor import Compressor
from dougong.model.indexer import Indexer
from dougong.model.layers import Build, Linear, RMSNorm, parameter
from dougong.model.state import LayerState


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

    def __init__(self, build: Build, config: V4Config, ratio: int) -> None:
        super().__init__()
        self.dense = False  # every visible entry counts, whatever the indexer says (training)
        self.watch: Callable[[Packed], None] | None = None  # told of every packed call
        self.build, self.config, self.ratio = build, config, ratio
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
        self.compressor = Compressor(build, config, ratio, head_dim, index=False) if ratio else None
        self.indexer = Indexer(build, config, ratio) if ratio == 4 else None
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

    def forward(
        self, x_TD: Tensor, batch: Batch, states: Sequence[LayerState] | None = None
    ) -> Tensor:
        """Attends each request's tokens to its own past; advances the states, if there are any."""
        ops, config = self.build.ops, self.config
        rotation_TP = batch.rotations(self.freqs_P)
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
        if states is None:
            o_THC = self._packed(q_THC, kv_TC, x_TD, latent_TL, rotation_TP, batch)
        else:
            context = _Context(self, x_TD, latent_TL, rotation_TP, batch)
            o_THC = self._continued(q_THC, kv_TC, rotation_TP, context, states)
        out: Tensor = self.wo_b(ops.grouped_projection(o_THC, self.wo_a.weight, config.o_groups))
        return out

    def _packed(
        self,
        q_THC: Tensor,
        kv_TC: Tensor,
        x_TD: Tensor,
        latent_TL: Tensor,
        rotation_TP: Tensor,
        batch: Batch,
    ) -> Tensor:
        """Every request from its position 0 with nothing remembered, as in training."""
        entries_MC = selected = None
        if self.compressor is not None:
            tokens_TX = self.compressor.tokens(x_TD, batch.positions_T)
            entries_MC = self.compressor.packed_entries(tokens_TX, batch.lengths, self.freqs_P)
        if self.watch is not None:
            self.watch(Packed(self, batch, x_TD, latent_TL, rotation_TP, q_THC, kv_TC, entries_MC))
        indexer = None if self.dense else self.indexer
        # An indexer that has nothing to cut for any request need not run at all.
        if indexer is not None and max(batch.lengths, default=0) // self.ratio > indexer.top_k:
            selected = indexer.packed(latent_TL, x_TD, rotation_TP, batch, self.freqs_P)
        o_THC: Tensor = self.build.ops.packed_attention(
            q_THC,
            kv_TC,
            entries_MC,
            selected,
            self.attn_sink,
            rotation_TP,
            lengths=batch.lengths,
            window=self.config.sliding_window,
            ratio=self.ratio,
        )
        return o_THC

    def _continued(
        self,
        q_THC: Tensor,
        kv_TC: Tensor,
        rotation_TP: Tensor,
        context: _Context,
        states: Sequence[LayerState],
    ) -> Tensor:
        """Every request from where its state ends; advances the states."""
        batch, outputs = context.batch, []
        for i, segment in enumerate(batch.segments):
            kv_NC = kv_TC[segment.rows]
            entries_MC, selected_NK = context.select(i, states[i])
            outputs.append(
                self.build.ops.attention(
                    q_THC[segment.rows],
                    self._recent(kv_NC, segment.start, states[i]),
                    entries_MC,
                    selected_NK,
                    self.attn_sink,
                    rotation_TP[segment.rows],
                    start=segment.start,
                    window=self.config.sliding_window,
                    ratio=self.ratio,
                )
            )
        return torch.cat(outputs)

    def _recent(self, kv_NC: Tensor, start: int, state: LayerState) -> Tensor:
        """Window entries of these tokens and of as many before them as the first one can see."""
        state.window.append(kv_NC)
        oldest = max(start - self.config.sliding_window + 1, 0)
        return state.window.rows(oldest, start + kv_NC.shape[0])


class _Context:
    """The compressed side of one forward pass of a layer: flat projections, then per request."""

    def __init__(
        self,
        layer: Attention,
        x_TD: Tensor,
        latent_TL: Tensor,
        rotation_TP: Tensor,
        batch: Batch,
    ) -> None:
        self.layer, self.batch = layer, batch
        if layer.compressor is not None:
            tokens_TX = layer.compressor.tokens(x_TD, batch.positions_T)
            self.tokens = tokens_TX.split(batch.lengths)
        self.indexer = None if layer.dense else layer.indexer
        if self.indexer is not None:
            index_tokens_TX = self.indexer.compressor.tokens(x_TD, batch.positions_T)
            self.index_tokens = index_tokens_TX.split(batch.lengths)
            index_q_TJD, index_weight_TJ = self.indexer.queries(latent_TL, x_TD, rotation_TP)
            self.index_q = index_q_TJD.split(batch.lengths)
            self.index_weight = index_weight_TJ.split(batch.lengths)

    def select(self, i: int, state: LayerState) -> tuple[Tensor | None, Tensor | None]:
        """Request i's compressed entries, and the indices its queries may use (None: all)."""
        layer, start = self.layer, self.batch.segments[i].start
        if layer.compressor is None:
            return None, None
        entries = layer.compressor.entries(self.tokens[i], start, state.compressor, layer.freqs_P)
        if self.indexer is None:
            return entries, None
        keys = self.indexer.compressor.entries(
            self.index_tokens[i], start, state.indexer, layer.freqs_P
        )
        if keys.shape[0] <= self.indexer.top_k:
            return entries, None  # nothing to cut: every visible entry is selected
        return entries, self.indexer(self.index_q[i], self.index_weight[i], keys, start)
