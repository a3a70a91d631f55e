"""Cases of the operators that read and write requests' memories: rings, and blocks in any order.

Some of the rows go as two requests, each with a memory that holds what came before.

Shapes: N rows (queries or entries), W earlier tokens, H heads, C channels, X width of a token.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from dougong.conform.case import CLOSE, EXACT, Call, Case, Results
from dougong.conform.draw import DTYPES, Draw
from dougong.kernels.compressor import pending, round_index_vector
from dougong.kernels.entries import FLOATS, EntryFormat, Kind
from dougong.kernels.paged import (
    BLOCK_TOKENS,
    BlockPool,
    BlockTable,
    Place,
    RequestMemory,
    Span,
    Spans,
)
from dougong.kernels.registry import Operators
from dougong.kernels.rounding import round_cache_entry

EPS = 1e-6
PAIRS = 4
SHORT = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def _memory(ring: Place, block_bytes: int, num_tokens: int) -> RequestMemory:
    """A memory with blocks for so many tokens, last block first; all of it NaN."""
    count = num_tokens // BLOCK_TOKENS + 1
    pool = BlockPool(block_bytes, count, poison=True)
    memory = RequestMemory(pool, ring.count * ring.format.nbytes)
    memory.rings.fill_(0xFF)
    memory.table = BlockTable(pool, pool.allocate(count)[::-1])
    return memory


def _halves(r: slice) -> list[tuple[int, int]]:
    """The rows as one request, or as two."""
    middle = (r.start + r.stop) // 2
    return [(low, high) for low, high in ((r.start, middle), (middle, r.stop)) if low < high]


def _row(rounded: bool, dtype: torch.dtype, size: int, kind: Kind) -> EntryFormat:
    """How rows of `dtype` are kept: as they are, or rounded ones of the model's own type packed."""
    if rounded and (dtype == torch.bfloat16 or kind == "fp4"):
        return EntryFormat(kind, size, 2 * PAIRS if kind == "fp8" else 0)
    return EntryFormat(FLOATS[dtype], size)


def _attention(draw: Draw, rows: int) -> Case:
    heads, size, dtype = draw.integer(1, 6), 16 * draw.integer(1, 8), draw.choice(DTYPES)
    start, window, ratio = draw.integer(0, 200), draw.integer(1, 40), draw.choice((0, 4, 128))
    rounded = draw.choice((True, False))
    num_entries = (start + rows) // ratio if ratio else 0
    kv, entries = (draw.noise(n, size, dtype=dtype) for n in (start + rows, num_entries))
    inputs = {
        "q": draw.noise(rows, heads, size, dtype=dtype),
        "kv": round_cache_entry(kv, 2 * PAIRS) if rounded else kv,
        "entries": round_cache_entry(entries, 2 * PAIRS) if rounded else entries,
        "selected": None,
        "sink": draw.noise(heads),
        "turn": draw.turns(rows, PAIRS, start),
    }
    if num_entries and ratio == 4 and draw.choice((True, False)):
        visible_N = (torch.arange(start, start + rows) + 1) // ratio
        picks = draw.picks(rows, num_entries, 9)
        inputs["selected"] = picks.masked_fill(picks >= visible_N[:, None], -1).sort(-1).values

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        entry = _row(rounded, i.q.dtype, size, "fp8")
        ring = Place(entry, 0, window + 3)
        place = Place(entry, 0, BLOCK_TOKENS // max(ratio, 1))
        spans = []
        for low, high in _halves(r):
            first, block_bytes = start + low, place.count * entry.nbytes
            memory = _memory(ring, block_bytes, start + rows)
            oldest = max(first - window + 1, 0)
            memory.write_ring(ring, oldest, entry.pack(i.kv[oldest:first]))
            memory.write_entries(place, 0, i.entries)
            spans.append(Span(low - r.start, high - r.start, first, memory))
        out = o.attention(
            i.q[r], i.kv[start + r.start : start + r.stop], Spans(spans),
            place if num_entries else None, None if i.selected is None else i.selected[r],
            i.sink, i.turn[r], ring=ring, window=window, ratio=ratio,
        )  # fmt: skip
        return (out,)

    chosen = "selected" if inputs["selected"] is not None else "all"
    about = f"{heads} heads of {size}, window {window}, {chosen} of {num_entries}, {SHORT[dtype]}"
    return Case("attention", f"{about}{', fp8' * rounded}", rows, inputs, call, CLOSE[dtype])


def _packed_attention(draw: Draw, rows: int) -> Case:
    heads, size, length = draw.integer(1, 3), 16 * draw.integer(1, 4), 4 * draw.integer(1, 6)
    dtype, rows = draw.choice(DTYPES), min(rows, 17)  # whole samples
    inputs = {
        "q": draw.noise(rows, length, heads, size, dtype=dtype),
        "kv": draw.noise(rows, length, size, dtype=dtype),
        "entries": draw.noise(rows, length // 4, size, dtype=dtype),
        "sink": draw.noise(heads),
        "turn": draw.turns(length, PAIRS),
    }

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        q, kv, entries = (x[r].flatten(0, 1) for x in (i.q, i.kv, i.entries))
        count = r.stop - r.start
        spans = Spans([Span(n * length, (n + 1) * length, 0) for n in range(count)])
        turn, options = i.turn.repeat(count, 1), {"ring": None, "window": 7, "ratio": 4}
        o_THC = o.attention(q, kv, spans, entries, None, i.sink, turn, **options)
        return (o_THC.unflatten(0, (count, length)),)

    about = f"samples of {length} tokens, {heads} heads of {size}, {SHORT[dtype]}, no memory"
    return Case("attention", about, rows, inputs, call, CLOSE[dtype])


def _remember(draw: Draw, rows: int) -> Case:
    size, dtype, start = 16 * draw.integer(1, 8), draw.choice(DTYPES), draw.integer(0, 300)
    rounded = draw.choice((True, False))
    kv = draw.noise(rows, size, dtype=dtype)
    inputs = {"kv": round_cache_entry(kv, 2 * PAIRS) if rounded else kv}

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        entry, first, last = _row(rounded, i.kv.dtype, size, "fp8"), start + r.start, start + r.stop
        ring = Place(entry, 0, rows)
        memory = _memory(ring, 0, 0)
        o.remember(i.kv[r], Spans([Span(0, last - first, first, memory)]), ring)
        return (entry.unpack(memory.ring(ring, first, last), i.kv.dtype),)

    about = f"{size} channels, {SHORT[dtype]}{', fp8' * rounded}"
    return Case("remember", about, rows, inputs, call, EXACT)


def _compress(rounded: bool, *, index: bool, ratio: int, lead: int) -> Call:
    """Entries `lead` + r of tokens from position 0 on; those before are in the ring."""

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        width, size = i.value.shape[1], i.weight.shape[0]
        ring = Place(EntryFormat("float32", 2 * width), 0, 2 * ratio)
        entry = _row(rounded, i.like.dtype, size, "fp4" if index else "fp8")
        place = Place(entry, 0, BLOCK_TOKENS // ratio)
        tokens, spans, low_token = i.value.shape[0], [], (lead + r.start) * ratio
        for low, high in _halves(r):
            first, last = (lead + low) * ratio, (lead + high) * ratio
            memory = _memory(ring, place.count * entry.nbytes, tokens)
            held = torch.arange(pending(first, ratio), first)
            score = i.score[held] + i.ape[held % ratio]
            earlier = torch.cat([i.value[held], score], -1)
            memory.write_ring(ring, first - len(held), ring.format.pack(earlier))
            spans.append(Span(first - low_token, last - low_token, first, memory))
        rows = slice(low_token, (lead + r.stop) * ratio)
        o.compress(
            i.value[rows], i.score[rows], i.ape, i.weight, i.turn[r], Spans(spans), eps=EPS,
            ring=ring, place=place, dtype=i.like.dtype, rounded=rounded, index=index,
        )  # fmt: skip
        found = []
        for span in spans:
            assert span.memory is not None
            entries = span.memory.entries(place, span.end // ratio, i.like.dtype)
            found.append(entries[span.start // ratio :])
        return (torch.cat(found),)

    return call


def _compressed(draw: Draw, rows: int, *, index: bool) -> Case:
    dtype, ratio, lead = draw.choice(DTYPES), draw.choice((4, 128)), draw.integer(0, 40)
    size = draw.choice((32, 64, 128))
    rows, width = min(rows, 40), size * (2 if ratio == 4 else 1)
    tokens = (lead + rows) * ratio
    inputs = {
        "value": draw.noise(tokens, width),
        "score": draw.noise(tokens, width) * 3,
        "ape": draw.noise(ratio, width),
        "weight": draw.noise(size),
        "turn": draw.turns(rows, PAIRS, draw.integer(0, 1000)),
        "like": draw.noise(0, dtype=dtype),
    }
    about = f"{ratio} tokens to {size} channels, {SHORT[dtype]}"
    plain, options = partial(_compress, index=index, ratio=ratio, lead=lead), CLOSE[dtype]
    if draw.choice((True, False)):
        return Case("compress", about, rows, inputs, plain(False), options)

    def want(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        (x,) = plain(False)(o, i, r)
        return (round_index_vector(x) if index else round_cache_entry(x, 2 * PAIRS),)

    return Case("compress", f"{about}, rounded", rows, inputs, plain(True), EXACT, want)


def _packed_compress(draw: Draw, rows: int) -> Case:
    ratio, size = draw.choice((4, 128)), 2 * draw.integer(PAIRS, 20)
    width, length = size * (2 if ratio == 4 else 1), ratio * draw.integer(1, 2) + 1
    rows = min(rows, 17)  # whole samples
    inputs = {
        "value": draw.noise(rows, length, width),
        "score": draw.noise(rows, length, width),
        "ape": draw.noise(ratio, width),
        "weight": draw.noise(size),
        "turn": draw.turns(length // ratio, PAIRS),
    }

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        count = r.stop - r.start
        value, score = (x[r].flatten(0, 1) for x in (i.value, i.score))
        entries: Tensor = o.compress(
            value, score, i.ape, i.weight, i.turn.repeat(count, 1),
            Spans([Span(n * length, (n + 1) * length, 0) for n in range(count)]),
            eps=EPS, ring=None, place=None, dtype=torch.float32, rounded=False, index=False,
        )  # fmt: skip
        return (entries.unflatten(0, (count, -1)),)

    about = f"samples of {length} tokens, {ratio} to {size} channels, no memory"
    return Case("compress", about, rows, inputs, call, CLOSE[torch.float32])


def _index_select(draw: Draw, rows: int) -> Case:
    heads, size, start = draw.integer(1, 9), draw.choice((8, 33, 64)), draw.integer(3, 300)
    dtype, k = draw.choice(DTYPES), draw.integer(1, 40)
    packed = size != 33 and draw.choice((True, False))
    # whole numbers: sums are exact in any order, so the choice must be equal; ties are common
    inputs = {
        "q": draw.integers(-2, 2, rows, heads, size).to(dtype),
        "weight": draw.integers(-1, 1, rows, heads).to(dtype),
        "keys": draw.integers(-2, 2, (start + rows) // 4, size).to(dtype),
    }

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        key = _row(packed, i.q.dtype, size, "fp4")
        place, spans = Place(key, 0, 32), []
        for low, high in _halves(r):
            memory = _memory(Place(key, 0, 0), 32 * key.nbytes, start + rows)
            memory.write_entries(place, 0, i.keys)
            spans.append(Span(low - r.start, high - r.start, start + low, memory))
        best = o.index_select(i.q[r], i.weight[r], Spans(spans), place, ratio=4, k=k)
        room = torch.full((r.stop - r.start, k), -1)  # fewer columns where no request has k entries
        room[:, k - best.shape[1] :] = best
        return (room,)

    about = f"{k} of {(start + rows) // 4} keys, {heads} heads of {size}, {SHORT[dtype]}"
    return Case("index_select", f"{about}{', fp4' * packed}", rows, inputs, call, EXACT)


MEMORY_MAKERS = {
    "compress": (
        partial(_compressed, index=False),
        partial(_compressed, index=True),
        _packed_compress,
    ),
    "index_select": (_index_select,),
    "attention": (_attention, _packed_attention),
    "remember": (_remember,),
}
