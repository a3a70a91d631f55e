"""Requests and their memories as the native library sees them: arrays of structs."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from dougong.errors import ShapeError
from dougong.kernels.cpu.library import NativePlace, NativeSpan
from dougong.kernels.cpu.tensors import contiguous
from dougong.kernels.entries import FLOATS, EntryFormat
from dougong.kernels.paged import Entries, Place, Spans

FORMATS = {"float32": 0, "bfloat16": 1, "fp8": 2, "fp4": 3}  # as in kernels/native/abi.h
ENDLESS = 1 << 62  # entries in the one block that a dense tensor is


@cache
def native_place(place: Place) -> NativePlace:
    """A place described; lives as long as the program."""
    row = place.format
    if row.kind not in FORMATS:
        raise ShapeError(f"entries: backend cpu has no {row.kind} entries; use the reference")
    return NativePlace(
        FORMATS[row.kind], row.width, row.rope, row.nbytes, place.offset, place.count
    )


def check_place(place: Place, width: int, dtype: torch.dtype, name: str) -> None:
    """Raises ShapeError unless rows of `width` in `dtype` are kept there."""
    kinds = (FLOATS[dtype], "fp8", "fp4")
    if place.format.width != width or place.format.kind not in kinds:
        raise ShapeError(
            f"{name}: entries of {place.format.width} channels in {place.format.kind}; expected "
            f"{width} in {' or '.join(kinds)}"
        )


def native_spans(spans: Spans) -> ctypes.Array[NativeSpan]:
    """The spans described, once for all layers."""
    if spans.native is None:
        spans.native = (NativeSpan * len(spans))()
        fill_spans(spans, spans.native)
    array: ctypes.Array[NativeSpan] = spans.native
    return array


def fill_spans(spans: Spans, array: ctypes.Array[NativeSpan]) -> None:
    """Writes the spans into the front of `array`."""
    for i, span in enumerate(spans):
        rings = blocks = None
        if span.memory is not None:
            rings, blocks = span.memory.address, span.memory.table.locate()
        array[i] = NativeSpan(
            span.low, span.high - span.low, span.start, span.oldest, span.frozen, rings, blocks
        )


class DenseSpans:
    """Spans whose entries are a dense tensor, request after request: a block each."""

    def __init__(self, spans: Spans, entries: Tensor, ratio: int) -> None:
        count = len(spans)
        self.array, self.blocks = (NativeSpan * count)(), (ctypes.c_void_p * max(count, 1))()
        fill_spans(spans, self.array)
        at, row_bytes = entries.data_ptr(), entries.shape[1] * entries.element_size()
        for i, span in enumerate(spans):
            self.blocks[i] = at
            self.array[i].blocks = ctypes.addressof(self.blocks) + i * ctypes.sizeof(
                ctypes.c_void_p
            )
            at += span.end // ratio * row_bytes


def native_entries(
    entries: Entries, spans: Spans, ratio: int, width: int, dtype: torch.dtype, name: str
) -> tuple[ctypes.Array[NativeSpan], NativePlace, object]:
    """Spans and place of compressed entries, in blocks or dense; and what must be kept alive."""
    if isinstance(entries, Place):
        check_place(entries, width, dtype, name)
        return native_spans(spans), native_place(entries), None
    num_entries = sum(span.end // ratio for span in spans)
    if entries.dtype != dtype:
        raise ShapeError(f"{name}: entries are {entries.dtype}, queries {dtype}")
    entries = contiguous(entries, f"{name}: entries", num_entries, width)
    dense = DenseSpans(spans, entries, ratio)
    place = Place(EntryFormat(FLOATS[dtype], width), 0, ENDLESS)
    return dense.array, native_place(place), (dense, entries)
