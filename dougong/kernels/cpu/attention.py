"""Index selection and attention.

Shapes: N queries of one request at consecutive positions, H heads, C channels, W window entries,
M compressed entries, K selected entries, J index heads, D index channels, P rope pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dougong.errors import ShapeError
from dougong.kernels.cpu.library import Attention, Index
from dougong.kernels.cpu.program import call
from dougong.kernels.cpu.tensors import contiguous, dtype_code, floats, indices, inference_only


def index_select(
    q_NJD: Tensor, weight_NJ: Tensor, keys_MD: Tensor, *, start: int, ratio: int, k: int
) -> Tensor:
    """The k best visible entries of each query, ascending, -1 where there are fewer: [N, K]."""
    inference_only(q_NJD, weight_NJ, keys_MD)
    q_NJD = contiguous(q_NJD, "index_select: q", -1, -1, -1)
    tokens, heads, size = q_NJD.shape
    keys_MD = contiguous(keys_MD, "index_select: keys", -1, size)
    weight_NJ = contiguous(weight_NJ, "index_select: weight", tokens, heads)
    dtype = dtype_code(q_NJD, "index_select: q")
    if keys_MD.dtype != q_NJD.dtype or start < 0 or ratio < 1:
        raise ShapeError(f"index_select: keys are {keys_MD.dtype}, queries {q_NJD.dtype}")
    num_keys = keys_MD.shape[0]
    k = min(k, num_keys)
    selected_NK = torch.empty(tokens, k, dtype=torch.int64)
    arguments = Index(
        q_NJD.data_ptr(), weight_NJ.data_ptr(), keys_MD.data_ptr(), selected_NK.data_ptr(),
        tokens, heads, size, num_keys, start, ratio, k, dtype,
        dtype_code(weight_NJ, "index_select: weight"),
    )  # fmt: skip
    if k:
        call("dg_index", arguments, q_NJD, weight_NJ, keys_MD, selected_NK)
    return selected_NK


def attention(
    q_NHC: Tensor,
    recent_WC: Tensor,
    entries_MC: Tensor | None,
    selected_NK: Tensor | None,
    sink_H: Tensor,
    rotation_NP: Tensor,
    *,
    start: int,
    window: int,
    ratio: int,
) -> Tensor:
    """Attention output [N, H, C] in q's dtype, RoPE undone; arguments as in the reference."""
    inference_only(q_NHC, recent_WC, sink_H)
    q_NHC = contiguous(q_NHC, "attention: q", -1, -1, -1)
    tokens, heads, size = q_NHC.shape
    recent_WC = contiguous(recent_WC, "attention: recent", -1, size)
    num_recent, pairs = recent_WC.shape[0], rotation_NP.shape[-1]
    rotation_NP = contiguous(rotation_NP, "attention: rotation", tokens, pairs)
    if num_recent < min(start + tokens, window - 1 + tokens) or 2 * pairs > size:
        raise ShapeError(
            f"attention: {num_recent} window entries do not reach back {window} positions from "
            f"{start}, or {pairs} rope pairs exceed {size} channels"
        )
    if rotation_NP.dtype != torch.complex64:
        raise ShapeError(f"attention: rotations are {rotation_NP.dtype}; expected complex64")
    entries, selected = _entries(entries_MC, selected_NK, q_NHC, start, ratio)
    if recent_WC.dtype != q_NHC.dtype:
        raise ShapeError(f"attention: window is {recent_WC.dtype}, queries {q_NHC.dtype}")
    sink_H = floats(sink_H, "attention: sink", heads)
    out_NHC = torch.empty_like(q_NHC)
    arguments = Attention(
        q_NHC.data_ptr(), recent_WC.data_ptr(),
        None if entries is None else entries.data_ptr(),
        None if selected is None else selected.data_ptr(),
        sink_H.data_ptr(), rotation_NP.data_ptr(), out_NHC.data_ptr(),
        tokens, heads, size, pairs, num_recent, 0 if selected is None else selected.shape[1],
        start, window, max(ratio, 1), dtype_code(q_NHC, "attention: q"),
    )  # fmt: skip
    kept = (q_NHC, recent_WC, entries, selected, sink_H, rotation_NP, out_NHC)
    call("dg_attention", arguments, *kept)
    return out_NHC


def _entries(
    entries_MC: Tensor | None, selected_NK: Tensor | None, q_NHC: Tensor, start: int, ratio: int
) -> tuple[Tensor | None, Tensor | None]:
    """Entries and selection, checked; both None where nothing is compressed yet."""
    if entries_MC is None or entries_MC.shape[0] == 0:
        return None, None
    tokens, _, size = q_NHC.shape
    entries_MC = contiguous(entries_MC, "attention: entries", -1, size)
    if entries_MC.dtype != q_NHC.dtype or ratio < 1:
        raise ShapeError(f"attention: entries are {entries_MC.dtype}, queries {q_NHC.dtype}")
    if selected_NK is not None:
        name = "attention: selected"
        return entries_MC, indices(selected_NK, name, entries_MC.shape[0], tokens, -1)
    if entries_MC.shape[0] < (start + tokens) // ratio:
        raise ShapeError(
            f"attention: {entries_MC.shape[0]} entries for {start + tokens} tokens at {ratio} each"
        )
    return entries_MC, None
