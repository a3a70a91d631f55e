"""A step of few tokens, recorded: what backend cpu runs when it decodes, for any requests together.

The layers run once while their operators are only noted down; a step then is one native call. The
same operators in the same order as `Transformer.forward`, so the same bits. Which requests, how
many tokens of each and where they stand is data that every step writes anew.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from dougong.config import CSA_RATIO
from dougong.kernels.cpu.library import NativeSpan
from dougong.kernels.cpu.memory import fill_spans
from dougong.kernels.cpu.program import Program, recording
from dougong.kernels.paged import BLOCK_TOKENS, RequestMemory, Span, Spans
from dougong.model.batch import Batch

CAPACITIES = (1, 8, 64)  # tokens that programs are recorded for; more are not worth it


class _Recording:
    """All main layers for up to `capacity` tokens, with or without the indexers' choice."""

    def __init__(self, model: Any, memory: RequestMemory, capacity: int, *, choose: bool) -> None:
        config = model.config
        self.program = Program(capacity)
        self.ids_T = torch.zeros(capacity, dtype=torch.int64)
        self.spans = (NativeSpan * capacity)()
        # these tokens end a block, so that the operators that finish entries have a row to point to
        spans = Spans([Span(0, capacity, BLOCK_TOKENS - capacity, memory)])
        spans.native = self.spans
        spans.longest = config.max_position_embeddings if choose else 0
        self.turned: list[tuple[Tensor, int, Tensor]] = []  # frequencies, ratio, rotations
        batch = Batch(self.ids_T, spans)
        for layer in model.layers:
            self._add_rotations(batch, layer.attn.freqs_P, 0)
            if layer.attn.ratio:
                self._add_rotations(batch, layer.attn.freqs_P, layer.attn.ratio)
        self.streams_TSD = torch.zeros(
            capacity, config.hc_mult, config.hidden_size, dtype=model.build.dtype
        )
        with recording(self.program):
            streams_TSD = self.streams_TSD
            for layer in model.layers:
                streams_TSD = layer(streams_TSD, batch)
        self.out_TSD = streams_TSD

    def _add_rotations(self, batch: Batch, freqs_P: Tensor, ratio: int) -> None:
        key, capacity = (freqs_P.data_ptr(), ratio), self.program.capacity
        if key not in batch.turned:
            buffer = torch.zeros(capacity, freqs_P.shape[0], dtype=torch.complex64)
            batch.turned[key] = buffer[: len(batch.entry_positions(ratio)) if ratio else capacity]
            self.turned.append((freqs_P, ratio, buffer))

    def run(self, batch: Batch, embedded_TD: Tensor) -> Tensor:
        """The streams behind the last layer [T, S, D]."""
        tokens = batch.ids_T.shape[0]
        self.ids_T[:tokens] = batch.ids_T
        self.streams_TSD[:tokens] = embedded_TD[:, None]
        for freqs_P, ratio, buffer in self.turned:
            if ratio == 0:
                buffer[:tokens] = batch.rotations(freqs_P)
            elif positions := batch.entry_positions(ratio):
                buffer[: len(positions)] = batch.entry_rotations(freqs_P, ratio)
        fill_spans(batch.spans, self.spans)
        self.program.run(tokens, len(batch.spans))
        return self.out_TSD[:tokens].clone()  # the next step overwrites them


class RecordedSteps:
    """Recordings by capacity, made when they are first needed. One thread at a time runs them."""

    def __init__(self, model: Any) -> None:
        self._model, self._lock = model, threading.Lock()
        self._recordings: dict[tuple[int, bool], _Recording] = {}
        self._memory = model.new_state().memory  # stands for a request's while recording

    def run(self, batch: Batch, embedded_TD: Tensor) -> Tensor | None:
        """The streams behind the last layer; None for too many tokens, or if a thread is here."""
        tokens = batch.ids_T.shape[0]
        if tokens > CAPACITIES[-1] or not self._lock.acquire(blocking=False):
            return None
        try:
            capacity = next(size for size in CAPACITIES if size >= tokens)
            choose = batch.spans.longest // CSA_RATIO > self._model.config.index_topk
            key = capacity, choose
            if key not in self._recordings:
                self._recordings[key] = _Recording(
                    self._model, self._memory, capacity, choose=choose
                )
            return self._recordings[key].run(batch, embedded_TD)
        finally:
            self._lock.release()
