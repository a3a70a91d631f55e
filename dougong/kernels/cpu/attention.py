"""Index selection and attention.

Shapes: T flat tokens, H heads, C channels, K selected entries, J index heads, D index channels,
P rope pairs.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dougong.errors import ShapeError
from dougong.kernels.cpu.library import Attention, Index, Remember
from dougong.kernels.cpu.memory import check_place, native_entries, native_place, native_spans
from dougong.kernels.cpu.program import call
from dougong.kernels.cpu.tensors import contiguous, dtype_code, floats, indices, inference_only
from dougong.kernels.paged import Entries, Place, Spans


def index_select(
    q_TJD: Tensor, weight_TJ: Tensor, spans: Spans, keys: Entries, *, ratio: int, k: int
) -> Tensor:
    """The k best visible entries of each query, ascending, -1 where there are fewer: [T, K]."""
    inference_only(q_TJD, weight_TJ)
    tokens = sum(spans.lengths)
    q_TJD = contiguous(q_TJD, "index_select: q", tokens, -1, -1)
    _, heads, size = q_TJD.shape
    weight_TJ = contiguous(weight_TJ, "index_select: weight", tokens, heads)
    dtype = dtype_code(q_TJD, "index_select: q")
    array, place, kept = native_entries(keys, spans, ratio, size, q_TJD.dtype, "index_select")
    k = min(k, spans.longest // ratio)
    selected_TK = torch.zeros(tokens, k, dtype=torch.int64)  # a recorded one is checked unrun
    arguments = Index(
        q_TJD.data_ptr(), weight_TJ.data_ptr(), ctypes.addressof(array), ctypes.addressof(place),
        selected_TK.data_ptr(), len(spans), tokens, heads, size, ratio, k, dtype,
        dtype_code(weight_TJ, "index_select: weight"),
    )  # fmt: skip
    call("dg_index", arguments, q_TJD, weight_TJ, array, kept, selected_TK)
    return selected_TK


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
    """Attention output [T, H, C] in q's dtype, RoPE undone; arguments as in the reference."""
    inference_only(q_THC, kv_TC, sink_H)
    tokens = sum(spans.lengths)
    q_THC = contiguous(q_THC, "attention: q", tokens, -1, -1)
    _, heads, size = q_THC.shape
    kv_TC = contiguous(kv_TC, "attention: kv", tokens, size)
    pairs = rotation_TP.shape[-1]
    rotation_TP = contiguous(rotation_TP, "attention: rotation", tokens, pairs)
    if 2 * pairs > size or rotation_TP.dtype != torch.complex64 or kv_TC.dtype != q_THC.dtype:
        raise ShapeError(
            f"attention: {pairs} rope pairs in {rotation_TP.dtype}, {size} channels in "
            f"{q_THC.dtype}, window entries in {kv_TC.dtype} do not fit together"
        )
    array, place, kept = native_spans(spans), None, None
    if entries is not None:
        array, place, kept = native_entries(entries, spans, ratio, size, q_THC.dtype, "attention")
    if selected_TK is not None:
        limit = max(spans.longest // max(ratio, 1), 1)
        selected_TK = indices(selected_TK, "attention: selected", limit, tokens, -1)
    if ring is not None:
        check_place(ring, size, q_THC.dtype, "attention: ring")
    sink_H, out_THC = floats(sink_H, "attention: sink", heads), torch.empty_like(q_THC)
    arguments = Attention(
        q_THC.data_ptr(), kv_TC.data_ptr(), ctypes.addressof(array),
        None if ring is None else ctypes.addressof(native_place(ring)),
        None if place is None else ctypes.addressof(place),
        None if selected_TK is None else selected_TK.data_ptr(),
        sink_H.data_ptr(), rotation_TP.data_ptr(), out_THC.data_ptr(),
        len(spans), tokens, heads, size, pairs,
        0 if selected_TK is None else selected_TK.shape[1],
        window, max(ratio, 1), dtype_code(q_THC, "attention: q"),
    )  # fmt: skip
    held = (q_THC, kv_TC, array, kept, selected_TK, sink_H, rotation_TP, out_THC)
    call("dg_attention", arguments, *held)
    return out_THC


def remember(kv_TC: Tensor, spans: Spans, ring: Place) -> None:
    """Puts each request's newest window entries into its ring."""
    tokens, size = sum(spans.lengths), ring.format.width
    kv_TC = contiguous(kv_TC, "remember: kv", tokens, size)
    check_place(ring, size, kv_TC.dtype, "remember")
    array = native_spans(spans)
    arguments = Remember(
        kv_TC.data_ptr(), ctypes.addressof(array), ctypes.addressof(native_place(ring)),
        len(spans), tokens, size, dtype_code(kv_TC, "remember: kv"),
    )  # fmt: skip
    call("dg_remember", arguments, kv_TC, array)
