"""mHC, and norms with RoPE.

Shapes: T tokens, S streams, D hidden size, H heads, C channels, P rope pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dougong.errors import ShapeError
from dougong.kernels.cpu.library import Add, Lookup, Mhc, MhcPost, NormRope
from dougong.kernels.cpu.program import call
from dougong.kernels.cpu.tensors import (
    DTYPES,
    contiguous,
    dtype_code,
    floats,
    indices,
    inference_only,
)

NO_ROUNDING, FP8_CACHE, FP4_INDEX = range(3)
MAX_STREAMS = 8  # as in kernels/native/streams.h


def _mix(
    streams_TSD: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    *,
    iterations: int,
    hc_eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x, post, comb; `iterations` 0 is the head, which has x only."""
    inference_only(streams_TSD, fn)
    streams_TSD = contiguous(streams_TSD, "mhc: streams", -1, -1, -1)
    tokens, streams, size = streams_TSD.shape
    if streams > MAX_STREAMS:
        raise ShapeError(f"mhc: {streams} streams; at most {MAX_STREAMS}")
    rows = streams * (2 + streams) if iterations else streams
    fn = floats(fn, "mhc: fn", rows, streams * size)
    base, scale = floats(base, "mhc: base", rows), floats(scale, "mhc: scale", -1)
    x_TD = torch.empty(tokens, size, dtype=streams_TSD.dtype)
    post = torch.empty(streams, tokens) if iterations else None
    comb = torch.empty(streams, streams, tokens) if iterations else None
    arguments = Mhc(
        streams_TSD.data_ptr(), fn.data_ptr(), base.data_ptr(), scale.data_ptr(), x_TD.data_ptr(),
        None if post is None else post.data_ptr(), None if comb is None else comb.data_ptr(),
        tokens, streams, size, dtype_code(streams_TSD, "mhc: streams"), iterations,
        hc_eps, norm_eps,
    )  # fmt: skip
    call("dg_mhc_mix", arguments, streams_TSD, fn, base, scale, x_TD, post, comb)
    return x_TD, post, comb


def mhc_pre(
    streams_TSD: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    *,
    iterations: int,
    hc_eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Collapses the streams into x_TD; post_ST and comb_SST (float32) are for `mhc_post`."""
    x_TD, post_ST, comb_SST = _mix(
        streams_TSD, fn, base, scale, iterations=iterations, hc_eps=hc_eps, norm_eps=norm_eps
    )
    assert post_ST is not None
    assert comb_SST is not None
    return x_TD, post_ST, comb_SST


def mhc_head(
    streams_TSD: Tensor, fn: Tensor, base: Tensor, scale: Tensor, *, hc_eps: float, norm_eps: float
) -> Tensor:
    """The final collapse: a sigmoid-weighted sum of the streams: [T, D]."""
    return _mix(streams_TSD, fn, base, scale, iterations=0, hc_eps=hc_eps, norm_eps=norm_eps)[0]


def mhc_post(y_TD: Tensor, streams_TSD: Tensor, post_ST: Tensor, comb_SST: Tensor) -> Tensor:
    """New streams: h'_k = post_k * y + sum_j comb[j, k] * h_j, in the streams' dtype."""
    inference_only(y_TD, streams_TSD)
    streams_TSD = contiguous(streams_TSD, "mhc_post: streams", -1, -1, -1)
    tokens, streams, size = streams_TSD.shape
    if streams > MAX_STREAMS:
        raise ShapeError(f"mhc_post: {streams} streams; at most {MAX_STREAMS}")
    y_TD = contiguous(y_TD, "mhc_post: y", tokens, size)
    post_ST = floats(post_ST, "mhc_post: post", streams, tokens)
    comb_SST = floats(comb_SST, "mhc_post: comb", streams, streams, tokens)
    out_TSD = torch.empty_like(streams_TSD)
    arguments = MhcPost(
        y_TD.data_ptr(), streams_TSD.data_ptr(), post_ST.data_ptr(), comb_SST.data_ptr(),
        out_TSD.data_ptr(), tokens, streams, size,
        dtype_code(y_TD, "mhc_post: y"), dtype_code(streams_TSD, "mhc_post: streams"),
    )  # fmt: skip
    call("dg_mhc_post", arguments, y_TD, streams_TSD, post_ST, comb_SST, out_TSD)
    return out_TSD


def norm_rope(
    x: Tensor,
    weight_C: Tensor | None,
    rotation_TP: Tensor | None,
    eps: float,
    *,
    rounding: int = NO_ROUNDING,
) -> Tensor:
    """Norm (eps < 0: none), RoPE and rounding over the last dim; heads share a token's rotation."""
    inference_only(x, weight_C)
    x_code = dtype_code(x, "norm: x")
    size = x.shape[-1]
    rows = x.numel() // max(size, 1)
    if not x.is_contiguous():
        x = x.contiguous()
    if weight_C is not None:
        weight_C = floats(weight_C, "norm: weight", size)
    pairs, heads = 0, 1
    if rotation_TP is not None:
        pairs, heads = rotation_TP.shape[-1], x.shape[1] if x.dim() == 3 else 1
        if rotation_TP.dtype != torch.complex64 or 2 * pairs > size:
            raise ShapeError(
                f"rope: {rotation_TP.dtype} rotations of {pairs} pairs, {size} channels"
            )
        rotation_TP = contiguous(rotation_TP, "rope: rotation", x.shape[0], pairs)
    if rounding == FP4_INDEX and size & (size - 1):
        raise ShapeError(f"index rounding: {size} channels; expected a power of two")
    y = torch.empty_like(x)
    arguments = NormRope(
        x.data_ptr(), None if weight_C is None else weight_C.data_ptr(),
        None if rotation_TP is None else rotation_TP.data_ptr(), y.data_ptr(),
        rows, size, pairs, heads, x_code, DTYPES[y.dtype], rounding, eps,
    )  # fmt: skip
    call("dg_norm_rope", arguments, x, weight_C, rotation_TP, y)
    return y


def rms_norm(x: Tensor, weight_C: Tensor | None, eps: float) -> Tensor:
    """x * rsqrt(mean(x^2) + eps) * weight over the last dim; float32 inside, one cast last."""
    return norm_rope(x, weight_C, None, eps)


def norm_rope_q(q_THC: Tensor, rotation_TP: Tensor, eps: float) -> Tensor:
    """Weightless RMS norm of each head's query, then RoPE on its last channels."""
    return norm_rope(q_THC, None, rotation_TP, eps)


def norm_rope_kv(
    kv_TC: Tensor, weight_C: Tensor, rotation_TP: Tensor, eps: float, *, rounded: bool
) -> Tensor:
    """Each token's key-value entry: weighted RMS norm, RoPE, FP8 round trip if asked."""
    rounding = FP8_CACHE if rounded else NO_ROUNDING
    return norm_rope(kv_TC, weight_C, rotation_TP, eps, rounding=rounding)


def rope_index_q(q_TJD: Tensor, rotation_TP: Tensor, *, rounded: bool) -> Tensor:
    """RoPE of the indexer's queries, then Hadamard and FP4 round trip if asked."""
    rounding = FP4_INDEX if rounded else NO_ROUNDING
    return norm_rope(q_TJD, None, rotation_TP, -1.0, rounding=rounding)


def add(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a + b of float32 tensors, rounded to `dtype`."""
    a, b = floats(a, "add: a", *b.shape), floats(b, "add: b", *b.shape)
    y = torch.empty(b.shape, dtype=dtype)
    arguments = Add(a.data_ptr(), b.data_ptr(), y.data_ptr(), y.numel(), dtype_code(y, "add: y"))
    call("dg_add", arguments, a, b, y)
    return y


def lookup(table_VK: Tensor, ids_T: Tensor) -> Tensor:
    """Rows `ids_T` of an int64 table: [T, K]."""
    rows, width = table_VK.shape
    ids_T = indices(ids_T, "lookup: ids", rows, -1)
    out_TK = torch.zeros(ids_T.shape[0], width, dtype=torch.int64)
    arguments = Lookup(
        table_VK.data_ptr(), ids_T.data_ptr(), out_TK.data_ptr(), ids_T.shape[0], width
    )
    call("dg_lookup", arguments, table_VK, ids_T, out_TK)
    return out_TK
