"""The compressor step.

Shapes: T flat tokens, M tokens of a block, X width of a token, D entry channels, E new entries,
P rope pairs.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dougong.errors import ShapeError
from dougong.kernels.compressor import OVERLAP_RATIO
from dougong.kernels.cpu.library import Compress
from dougong.kernels.cpu.memory import check_place, native_entries, native_place, native_spans
from dougong.kernels.cpu.program import call
from dougong.kernels.cpu.streams import FP4_INDEX, FP8_CACHE, NO_ROUNDING
from dougong.kernels.cpu.tensors import DTYPES, contiguous, floats, inference_only
from dougong.kernels.paged import Place, Spans


def compress(
    value_TX: Tensor,
    score_TX: Tensor,
    ape_MX: Tensor,
    weight_D: Tensor,
    rotation_EP: Tensor,
    spans: Spans,
    *,
    eps: float,
    ring: Place | None,
    place: Place | None,
    dtype: torch.dtype,
    rounded: bool,
    index: bool,
) -> Tensor | None:
    """New entries [E, D] in `dtype`, or None where they went to `place`; as in the reference."""
    inference_only(value_TX, score_TX)
    tokens, (ratio, width), size = sum(spans.lengths), ape_MX.shape, weight_D.shape[0]
    overlap, pairs = ratio == OVERLAP_RATIO, rotation_EP.shape[-1]
    num_entries = sum(span.end // ratio - span.start // ratio for span in spans)
    if width != size * (2 if overlap else 1) or 2 * pairs > size or dtype not in DTYPES:
        raise ShapeError(f"compress: tokens of {width}, entries of {size} channels in {dtype}")
    if index and rounded and size & (size - 1):
        raise ShapeError(f"index rounding: {size} channels; expected a power of two")
    inputs = (
        floats(value_TX, "compress: value", tokens, width),
        floats(score_TX, "compress: score", tokens, width),
        floats(ape_MX, "compress: ape", ratio, width),
        floats(weight_D, "compress: weight", size),
        contiguous(rotation_EP, "compress: rotation", num_entries, pairs),
    )
    entries = None
    if place is None or ring is None:
        entries = torch.empty(num_entries, size, dtype=dtype)
        array, native, kept = native_entries(entries, spans, ratio, size, dtype, "compress")
    else:
        check_place(place, size, dtype, "compress")
        check_place(ring, 2 * width, torch.float32, "compress: ring")
        array, native, kept = native_spans(spans), native_place(place), None
    arguments = Compress(
        *(x.data_ptr() for x in inputs), ctypes.addressof(array),
        None if ring is None else ctypes.addressof(native_place(ring)), ctypes.addressof(native),
        len(spans), tokens, ratio, width, pairs, overlap, DTYPES[dtype],
        (FP4_INDEX if index else FP8_CACHE) if rounded else NO_ROUNDING, eps,
    )  # fmt: skip
    call("dg_compress", arguments, *inputs, array, kept, entries)
    return entries
