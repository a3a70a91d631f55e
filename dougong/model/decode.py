"""One token of one request, recorded: what backend cpu runs at every decode step.

The same operators in the same order as `Transformer.forward`, so the same bits; but each layer is
two native calls instead of some thirty, on memory of its own. Only addresses and positions change
from token to token.

Shapes: S streams, D hidden size, X width of a compressor's token, K selected entries.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from dougong.kernels.cpu.program import Program, add, recording
from dougong.kernels.rotary import rotations
from dougong.model.attention import Attention
from dougong.model.compressor import Compressor
from dougong.model.moe import MoE
from dougong.model.state import CompressorState, LayerState, Log, RequestState


class _TokenWriter:
    """A compressor's share of a step: value and score of the token, written into its log."""

    def __init__(self, program: Program, compressor: Compressor, x_1D: Tensor) -> None:
        self.compressor, ops = compressor, compressor.build.ops
        ops.wide_linear(x_1D, compressor.wkv.weight)
        self.value = program.last
        score_1X = ops.wide_linear(x_1D, compressor.wgate.weight)
        add(score_1X, compressor.ape[:1], torch.empty_like(score_1X))
        self.score = program.last
        self.ape = compressor.ape.detach()

    def point(self, state: CompressorState, at: int) -> None:
        """Directs the token at position `at` to its row."""
        state.tokens.reserve(1)
        row = state.tokens.address(at)
        width_bytes = self.ape.stride(0) * self.ape.element_size()
        self.value.y, self.score.y = row, row + width_bytes
        self.score.b = self.ape.data_ptr() + at % self.compressor.ratio * width_bytes


class _LayerStep:
    """One layer: `before` the attention, the indexer's choice, and `after`."""

    def __init__(self, block: Any, streams_1SD: Tensor, rotation_1P: Tensor) -> None:
        self.attn: Attention = block.attn
        self.before, self.choice, self.after = Program(), Program(), Program()
        self.writers: list[_TokenWriter] = []
        with recording(self.before) as program:
            x_1D, *spread = block.hc_attn.collapse(streams_1SD)
            x_1D = block.attn_norm(x_1D)
            latent_1L, q_1HC, kv_1C = self._project(x_1D, rotation_1P)
            self.entry = program.last
            self._write_tokens(program, x_1D)
        self._choose(latent_1L, x_1D, rotation_1P)
        with recording(self.after) as program:
            o_1HC = self._attend(program, q_1HC, kv_1C, rotation_1P)
            groups = self.attn.config.o_groups
            y_1D = self.attn.wo_b(
                self.attn.build.ops.grouped_projection(o_1HC, self.attn.wo_a.weight, groups)
            )
            streams_1SD = block.hc_attn.expand(y_1D, streams_1SD, *spread)
            x_1D, *spread = block.hc_ffn.collapse(streams_1SD)
            y_1D = self._mix_experts(block.ffn, block.ffn_norm(x_1D))
            self.streams_1SD = block.hc_ffn.expand(y_1D, streams_1SD, *spread)

    def _project(self, x_1D: Tensor, rotation_1P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn = self.attn
        ops, eps = attn.build.ops, attn.config.rms_norm_eps
        latent_1L = attn.q_norm(attn.wq_a(x_1D))
        q_1HC = attn.wq_b(latent_1L).unflatten(-1, (attn.config.num_attention_heads, -1))
        q_1HC = ops.norm_rope_q(q_1HC, rotation_1P, eps)
        kv_1C = ops.norm_rope_kv(
            attn.wkv(x_1D), attn.kv_norm.weight, rotation_1P, eps, rounded=attn.build.rounded
        )
        return latent_1L, q_1HC, kv_1C

    def _write_tokens(self, program: Program, x_1D: Tensor) -> None:
        if self.attn.compressor is not None:
            self.writers.append(_TokenWriter(program, self.attn.compressor, x_1D))
        if self.attn.indexer is not None:
            self.writers.append(_TokenWriter(program, self.attn.indexer.compressor, x_1D))

    def _choose(self, latent_1L: Tensor, x_1D: Tensor, rotation_1P: Tensor) -> None:
        indexer = self.attn.indexer
        if indexer is None:
            return
        with recording(self.choice) as program:
            q_1JD, weight_1J = indexer.queries(latent_1L, x_1D, rotation_1P)
            keys_MD = q_1JD.new_zeros(indexer.top_k + 1, q_1JD.shape[-1])
            self.selected_1K = indexer(q_1JD, weight_1J, keys_MD, start=0)
            self.index = program.last

    def _attend(
        self, program: Program, q_1HC: Tensor, kv_1C: Tensor, rotation_1P: Tensor
    ) -> Tensor:
        attn = self.attn
        o_1HC: Tensor = attn.build.ops.attention(
            q_1HC, kv_1C, None, None, attn.attn_sink, rotation_1P,
            start=0, window=attn.config.sliding_window, ratio=attn.ratio,
        )  # fmt: skip
        self.attention = program.last
        return o_1HC

    def _mix_experts(self, ffn: MoE, x_1D: Tensor) -> Tensor:
        gate = ffn.gate
        self.table = gate.tid2eid
        self.hashed_1K = torch.zeros(1, gate.top_k, dtype=torch.int64)
        weights_1K, experts_1K = gate.ops.router(
            x_1D, gate.weight, gate.bias, None if self.table is None else self.hashed_1K,
            top_k=gate.top_k, route_scale=gate.route_scale,
        )  # fmt: skip
        experts_1K.zero_()  # nothing has run yet, and what is recorded is checked
        routed_1D = ffn.experts(x_1D, weights_1K, experts_1K)
        return add(routed_1D, ffn.shared_experts(x_1D), torch.empty_like(x_1D))

    def run(self, token: int, state: LayerState, at: int) -> None:
        """Takes the token at position `at` through the layer."""
        state.window.reserve(1)
        self.entry.y = state.window.address(at)
        memories = [memory for memory in (state.compressor, state.indexer) if memory is not None]
        for writer, memory in zip(self.writers, memories, strict=True):
            writer.point(memory, at)
        if self.table is not None:
            self.hashed_1K.copy_(self.table[token : token + 1])
        self.before.run()
        for writer, memory in zip(self.writers, memories, strict=True):
            writer.compressor.complete(at, at + 1, memory, self.attn.freqs_P)
        oldest = max(at - self.attn.config.sliding_window + 1, 0)
        call = self.attention
        call.recent, call.num_recent, call.start = state.window.address(oldest), at + 1 - oldest, at
        if state.compressor is not None:
            self._point_entries(state.compressor.entries, state.indexer, at)
        self.after.run()

    def _point_entries(self, entries: Log, memory: CompressorState | None, at: int) -> None:
        """Gives the attention its compressed entries and, where there are too many, the choice."""
        call = self.attention
        call.entries = entries.address(0) if entries.end else None
        call.selected, call.num_selected = None, 0
        indexer = self.attn.indexer
        if indexer is None or memory is None or memory.entries.end <= indexer.top_k:
            return
        self.index.keys, self.index.num_keys = memory.entries.address(0), memory.entries.end
        self.index.start = at
        self.choice.run()
        call.selected, call.num_selected = self.selected_1K.data_ptr(), indexer.top_k


class TokenStep:
    """All main layers, recorded once. One thread at a time can run it."""

    def __init__(self, model: Any) -> None:
        self.embed, self.lock = model.embed, threading.Lock()
        config = model.config
        self.streams_1SD = torch.zeros(
            1, config.hc_mult, config.hidden_size, dtype=model.build.dtype
        )
        self.freqs: dict[bool, Tensor] = {}
        self.rotation: dict[bool, Tensor] = {}
        self.layers: list[_LayerStep] = []
        streams_1SD = self.streams_1SD
        for block in model.layers:
            compresses = block.attn.ratio > 0  # these layers share one RoPE table, the others one
            self.freqs.setdefault(compresses, block.attn.freqs_P)
            zero = torch.zeros(1, dtype=torch.int64)
            rotation_1P = self.rotation.setdefault(
                compresses, rotations(self.freqs[compresses], zero)
            )
            layer = _LayerStep(block, streams_1SD, rotation_1P)
            streams_1SD = layer.streams_1SD
            self.layers.append(layer)

    def run(self, id_1: Tensor, state: RequestState) -> Tensor:
        """The streams behind the last layer [1, S, D]; the state's layers take the token."""
        at, token = state.length, int(id_1)
        self.streams_1SD.copy_(self.embed(id_1)[:, None])
        position_1 = torch.tensor([at])
        for compresses, rotation_1P in self.rotation.items():
            rotation_1P.copy_(rotations(self.freqs[compresses], position_1))
        for layer, memory in zip(self.layers, state.layers, strict=True):
            layer.run(token, memory, at)
        streams_1SD: Tensor = self.layers[-1].streams_1SD.clone()  # the next step overwrites them
        return streams_1SD
