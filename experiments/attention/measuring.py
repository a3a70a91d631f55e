"""What a trained kind can do: loss and recall by position and distance, haystacks, cache, decode.

Everything is computed from documents of seeds that training does not use, the same for every kind.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dougong.model.state import RequestState
from dougong.model.transformer import Transformer
from experiments.attention.kinds import LatentState, LatentTransformer
from experiments.attention.stream import FILLER, Document, document, haystack

LONGEST = 8192
DOCUMENTS = 12  # of LONGEST tokens
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
COUNTS = (1, 4, 16)  # of facts in a haystack
QUESTIONS = 24  # at each length, for each number of facts; of two documents at least
CONTEXTS = (1024, 8192, 32768)  # at which decoding is timed
DECODE_STEPS = 40
CACHE_BYTES = 2  # of a cached value: BF16, as the release keeps it


@torch.inference_mode()
def predicted(model: Transformer, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Loss [N - 1] of every id but the first, and whether it was the likeliest."""
    ids_N = torch.tensor(ids)
    logits_NV = model.logits(model(ids_N, [len(ids)]))[:-1]
    losses = torch.nn.functional.cross_entropy(logits_NV, ids_N[1:], reduction="none")
    return losses, logits_NV.argmax(-1) == ids_N[1:]


def by_position(model: Transformer) -> dict[str, Any]:
    """Losses by position and recall by distance, in octaves, on documents of LONGEST tokens.

    Keys: position, distance (each a list of first, last, and figures: filler and recall in nats,
    right: the share of known values that were the likeliest, and count, of those).
    """
    position: defaultdict[int, list[tuple[str, float, float]]] = defaultdict(list)
    distance: defaultdict[int, list[tuple[str, float, float]]] = defaultdict(list)
    for i in range(DOCUMENTS):
        made = document(random.Random(f"attention/measured/{i}"), LONGEST)
        losses, hits = predicted(model, made.ids)
        for at in range(1, len(made.ids)):
            loss, hit = losses[at - 1].item(), hits[at - 1].item()
            if at in made.lags:
                position[at.bit_length()].append(("recall", loss, hit))
                distance[made.lags[at].bit_length()].append(("recall", loss, hit))
            elif made.ids[at] in FILLER:
                position[at.bit_length()].append(("filler", loss, hit))
    return {"position": _octaves(position), "distance": _octaves(distance)}


def _octaves(found: dict[int, list[tuple[str, float, float]]]) -> list[dict[str, Any]]:
    rows = []
    for bits in sorted(found):
        row: dict[str, Any] = {"first": 1 << (bits - 1), "last": (1 << bits) - 1}
        for what in ("filler", "recall"):
            losses = [loss for sort, loss, _ in found[bits] if sort == what]
            row[what] = sum(losses) / len(losses) if losses else None
        hits = [hit for sort, _, hit in found[bits] if sort == "recall"]
        row |= {"right": sum(hits) / len(hits) if hits else None, "count": len(hits)}
        rows.append(row)
    return rows


def haystacks(model: Transformer) -> list[dict[str, Any]]:
    """Share of right answers by number of facts in the text and its length."""
    cells = []
    for facts in COUNTS:
        for length in LENGTHS:
            made = [
                haystack(random.Random(f"attention/haystack/{facts}/{length}/{i}"), length, facts)
                for i in range(max(QUESTIONS // facts, 2))
            ]
            right, asked = _right(model, made)
            cells.append({"facts": facts, "length": length, "right": right, "asked": asked})
    return cells


def _right(model: Transformer, made: Iterable[Document]) -> tuple[int, int]:
    right = asked = 0
    for one in made:
        _, hits = predicted(model, one.ids)
        answers = [bool(hits[at - 1]) for at in one.lags]
        right, asked = right + sum(answers), asked + len(answers)
    return right, asked


@dataclass(frozen=True)
class Kept:
    """Rows of a request's memory: one for `ratio` tokens; `last`: how many must stay."""

    width: int
    ratio: int = 1
    last: int | None = None
    value_bytes: int = CACHE_BYTES

    def bytes_after(self, num_tokens: int) -> int:
        """Bytes to be kept after this many tokens."""
        rows = num_tokens // self.ratio
        rows = rows if self.last is None else min(rows, self.last)
        return rows * self.width * self.value_bytes


def kept_by(model: Transformer) -> Iterator[Kept]:
    """What the layers of `model` keep. Unfinished tokens of a compressor are float32."""
    if isinstance(model, LatentTransformer):
        for cache in model.new_state().caches:
            yield from (Kept(log.rows().shape[1]) for log in cache.logs())
        return
    for layer in model.layout.layers:
        yield Kept(layer.window.format.width, last=model.config.sliding_window - 1)
        for one in (layer.compressor, layer.indexer):
            if one is not None:
                overlap = 2 if one.ratio == 4 else 1
                yield Kept(one.tokens.format.width, last=overlap * one.ratio, value_bytes=4)
                yield Kept(one.entries.format.width, ratio=one.ratio)


def cache_bytes_per_token(model: Transformer, num_tokens: int = LONGEST) -> float:
    """Bytes that a request of this many tokens must keep, over their number; rows in BF16."""
    return sum(one.bytes_after(num_tokens) for one in kept_by(model)) / num_tokens


def fill(model: Transformer, state: RequestState, context: int) -> None:
    """Noise in the place of what `context` tokens would leave behind."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(state, LatentState):
        for log in (log for cache in state.caches for log in cache.logs()):
            log.append(torch.randn(context, log.rows().shape[1], generator=generator))
        return
    for layer in model.layout.layers:
        rings = [layer.window]
        for one in (layer.compressor, layer.indexer):
            if one is not None:
                rings.append(one.tokens)
                count = context // one.ratio
                noise = torch.randn(count, one.entries.format.width, generator=generator)
                state.memory.write_entries(one.entries, 0, noise)
        for ring in rings:
            noise = torch.randn(ring.count, ring.format.width, generator=generator)
            state.memory.write_ring(ring, context - ring.count, ring.format.pack(noise))


@torch.inference_mode()
def decode_ms(model: Transformer, context: int) -> float:
    """Median time of one token behind `context` tokens, on the reference operators.

    The caches are filled with noise: what is in them does not change the time.
    """
    state = model.new_state()
    state.reserve(context)
    fill(model, state, context)
    state.advance(context)
    times = []
    for _ in range(DECODE_STEPS):
        began = time.perf_counter()
        model.logits(model(torch.tensor([FILLER[0]]), [1], [state]))
        times.append(time.perf_counter() - began)
    return 1e3 * median(times)


def measure(model: Transformer) -> dict[str, Any]:
    """Everything but the decode time, which wants a machine of its own."""
    return {
        **by_position(model),
        "haystacks": haystacks(model),
        "cache_bytes_per_token": cache_bytes_per_token(model),
    }
