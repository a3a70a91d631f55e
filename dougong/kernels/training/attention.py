"""Attention of packed samples with gradients.

Shapes: T flat tokens, H heads, C channels, M compressed entries of all samples, P rope pairs,
K selected entries.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dougong.kernels.cpu import attention as forward_only
from dougong.kernels.paged import Entries, Place, Spans
from dougong.kernels.training.library import Alignment, PackAttention, address, apply, checked, run


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, entries: Tensor | None, sink: Tensor,
        rotation: Tensor, selected: Tensor | None, lengths: Tensor, window: int, ratio: int,
    ) -> Tensor:  # fmt: skip
        out, log_sum = torch.empty_like(q), q.new_empty(q.shape[:2])
        shape = (
            lengths.shape[0], q.shape[1], q.shape[2], rotation.shape[1],
            0 if selected is None else selected.shape[1], window, ratio,
        )  # fmt: skip
        values = q, kv, entries, sink, rotation, selected, lengths
        pointers = map(address, (*values, out, log_sum))
        run("dg_attend_forward", PackAttention(*pointers, *[None] * 5, *shape))
        ctx.save_for_backward(*values, log_sum)
        ctx.shape = shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> Any:
        *values, log_sum = ctx.saved_tensors
        q, kv, entries, sink, *_ = values
        d_out = d_out.contiguous()
        d_q, d_kv, d_sink = torch.empty_like(q), torch.zeros_like(kv), torch.empty_like(sink)
        d_entries = None if entries is None else torch.zeros_like(entries)
        pointers = map(address, (*values, None, log_sum, d_out, d_q, d_kv, d_entries, d_sink))
        run("dg_attend_backward", PackAttention(*pointers, *ctx.shape))
        return d_q, d_kv, d_entries, d_sink, None, None, None, None, None


def attention(
    q_THC: Tensor,
    kv_TC: Tensor,
    spans: Spans,
    entries: Entries | None,
    selected_TK: Tensor | None,
    sink_H: Tensor,
    rotation_TP: Tensor,
    *,
    ring: Place | None,
    window: int,
    ratio: int,
) -> Tensor:
    """Attention output [T, H, C], RoPE undone; requests with memories go to backend cpu."""
    if ring is not None or isinstance(entries, Place):
        return forward_only.attention(
            q_THC, kv_TC, spans, entries, selected_TK, sink_H, rotation_TP,
            ring=ring, window=window, ratio=ratio,
        )  # fmt: skip
    tokens = sum(spans.lengths)
    q_THC = checked(q_THC, "attention: q", tokens, -1, -1)
    _, heads, size = q_THC.shape
    kv_TC = checked(kv_TC, "attention: kv", tokens, size)
    if entries is not None:
        num_entries = sum(length // ratio for length in spans.lengths)
        entries = checked(entries, "attention: entries", num_entries, size) if num_entries else None
    out: Tensor = apply(
        _Attention,
        q_THC,
        kv_TC,
        entries,
        checked(sink_H, "attention: sink", heads),
        rotation_TP.contiguous(),
        None if entries is None else selected_TK,
        torch.tensor(spans.lengths),
        window,
        ratio,
    )
    return out


class _Alignment(Function):
    @staticmethod
    def forward(
        ctx: Any, index_q: Tensor, weight: Tensor, keys: Tensor, attention: tuple[Any, ...],
        top_k: int, shortest: int,
    ) -> Tensor:  # fmt: skip
        q, kv, entries, sink, lengths, window, ratio = attention
        log_sum = q.new_empty(q.shape[:2])
        values = q, kv, entries, sink, None, None, lengths, None, log_sum
        shape = lengths.shape[0], q.shape[1], q.shape[2], 0, 0, window, ratio
        main = PackAttention(*map(address, values), *[None] * 5, *shape)
        loss: Tensor = q.new_empty(())
        grads = [torch.zeros_like(value) for value in (index_q, weight, keys)]
        pointers = map(address, (index_q, weight, keys, loss, *grads))
        arguments = Alignment(
            ctypes.pointer(main), *pointers, index_q.shape[1], index_q.shape[2], top_k, shortest
        )
        run("dg_alignment", arguments)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        return *(grad * d_loss for grad in ctx.saved_tensors), None, None, None


def index_alignment(
    q_THC: Tensor,
    kv_TC: Tensor,
    entries_MC: Tensor,
    sink_H: Tensor,
    index_q_TJD: Tensor,
    weight_TJ: Tensor,
    keys_MD: Tensor,
    *,
    lengths: Sequence[int],
    window: int,
    ratio: int,
    top_k: int | None,
    shortest: int,
) -> Tensor:
    """Mean divergence of the index scores from the attention over samples of `shortest` or more."""
    tokens, heads, size = q_THC.shape
    num_entries = sum(length // ratio for length in lengths)
    _, index_heads, index_size = index_q_TJD.shape
    attention = (
        checked(q_THC.detach(), "alignment: q", sum(lengths), heads, size),
        checked(kv_TC.detach(), "alignment: kv", tokens, size),
        checked(entries_MC.detach(), "alignment: entries", num_entries, size),
        checked(sink_H.detach(), "alignment: sink", heads),
        torch.tensor(lengths),
        window,
        ratio,
    )
    loss: Tensor = apply(
        _Alignment,
        checked(index_q_TJD, "alignment: index q", tokens, index_heads, index_size),
        checked(weight_TJ, "alignment: weight", tokens, index_heads),
        checked(keys_MD, "alignment: keys", num_entries, index_size),
        attention,
        top_k or 0,
        shortest,
    )
    return loss
