"""Memory of requests: blocks of compressed entries in a pool, and rings of recent rows.

A block holds what 128 tokens of one request leave behind in every compressing layer; a request's
table lists its blocks in order. Blocks are counted by reference and never move: requests with a
common prefix share its blocks, and whoever would write into a shared block gets a copy first. A
ring keeps the latest rows of one kind, each at its position modulo the number of slots.

No model knowledge here: which kinds of rows there are and where they lie is said by `Place`s.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dougong.errors import InputError
from dougong.kernels.entries import EntryFormat

BLOCK_TOKENS = (
    128  # lcm of the compression ratios: every kind of entry fits a whole number of times
)
SMALLEST_SLAB = 16  # blocks that a growing pool begins with; it doubles
POISON = 0xFF  # NaN in every entry format


@dataclass(frozen=True)
class Place:
    """Rows of one kind: row i at `offset` + (i mod `count`) * format.nbytes of where it is kept.

    A ring is kept in its request's own bytes, `count` being its slots; compressed entries in block
    i // count of the request's table.
    """

    format: EntryFormat
    offset: int
    count: int


class BlockPool:
    """Blocks of `block_bytes` bytes each, named by numbers.

    Args:
        num_blocks: a fixed number, reserved at once (memory that is never touched costs nothing);
            None grows as needed.
        file: maps this file instead of using memory, so that the system may write blocks out.
        poison: fills blocks with NaN before their first use and after their last, and fresh rings
            (for tests).
    """

    def __init__(
        self,
        block_bytes: int,
        num_blocks: int | None = None,
        *,
        device: torch.device | str = "cpu",
        file: Path | None = None,
        poison: bool = False,
    ) -> None:
        assert file is None or num_blocks is not None
        self.block_bytes, self.num_blocks, self.device = block_bytes, num_blocks, device
        self.poison, self._file, self._lock = poison, file, threading.RLock()
        self._slabs: list[Tensor] = []  # uint8 [blocks, block_bytes] each
        self._homes: list[tuple[int, int]] = []  # of each block: its slab, its row there
        self._users: list[int] = []
        self._free: list[int] = []
        if num_blocks is not None:
            self._grow(num_blocks)

    def _grow(self, num_blocks: int) -> None:
        size = num_blocks * self.block_bytes
        with torch.inference_mode(False):  # else it could not be written outside of that mode
            if self._file is None:
                slab = torch.empty(size, dtype=torch.uint8, device=self.device)
            else:
                slab = torch.from_file(str(self._file), shared=True, size=size, dtype=torch.uint8)
        if self.poison:
            slab.fill_(POISON)
        first = len(self._homes)
        self._homes += [(len(self._slabs), row) for row in range(num_blocks)]
        self._users += [0] * num_blocks
        self._slabs.append(slab.view(num_blocks, self.block_bytes))
        self._free += range(first + num_blocks - 1, first - 1, -1)  # the lowest is taken first

    @property
    def num_used(self) -> int:
        """Blocks that somebody holds."""
        return len(self._homes) - len(self._free)

    @property
    def num_free(self) -> int | None:
        """Blocks that can still be allocated; None: any number."""
        return None if self.num_blocks is None else len(self._free)

    @property
    def used_bytes(self) -> int:
        """Bytes of the blocks in use."""
        return self.num_used * self.block_bytes

    def allocate(self, count: int = 1) -> list[int]:
        """Blocks with undefined contents, held once by the caller.

        Raises InputError if fewer are left; then none is taken.
        """
        with self._lock:
            if self.num_blocks is None and count > len(self._free):
                self._grow(max(SMALLEST_SLAB, len(self._homes), count))
            if count > len(self._free):
                raise InputError(
                    f"state memory: {count} more blocks of {BLOCK_TOKENS} tokens are needed and "
                    f"{len(self._free)} of {self.num_blocks} are free; finish a request first, or "
                    "make the pool larger"
                )
            blocks = [self._free.pop() for _ in range(count)]
            for block in blocks:
                self._users[block] = 1
            return blocks

    def hold(self, blocks: Iterable[int]) -> None:
        """Counts one more user of each block."""
        with self._lock:
            for block in blocks:
                assert self._users[block] > 0, "a free block cannot be held"
                self._users[block] += 1

    def drop(self, blocks: Iterable[int]) -> None:
        """Counts one user less of each; a block without users is free."""
        with self._lock:
            for block in blocks:
                assert self._users[block] > 0, "a block was dropped more often than held"
                self._users[block] -= 1
                if self._users[block] == 0:
                    if self.poison:
                        self.bytes(block).fill_(POISON)
                    self._free.append(block)

    def users(self, block: int) -> int:
        """How many hold the block."""
        return self._users[block]

    def bytes(self, block: int) -> Tensor:
        """The block's memory, uint8 [block_bytes]: a view."""
        slab, row = self._homes[block]
        return self._slabs[slab][row]

    def rows(self, blocks: Sequence[int], low: int, high: int) -> Tensor:
        """Bytes low .. high - 1 of each of several blocks: a copy [len(blocks), high - low]."""
        parts = []
        for slab, run in groupby(blocks, lambda block: self._homes[block][0]):
            parts.append(self._slabs[slab][[self._homes[block][1] for block in run], low:high])
        return torch.cat(parts)


class BlockTable:
    """The blocks that one holder has, in order; they are dropped with the holder at the latest."""

    def __init__(self, pool: BlockPool, blocks: Iterable[int] = ()) -> None:
        """Takes over the caller's hold on `blocks`."""
        self.pool, self.blocks = pool, list(blocks)
        self._drop = weakref.finalize(self, _drop_all, pool, self.blocks)
        self._array = np.empty(0, np.int64)  # the blocks' addresses, of which ...
        self._known = 0  # ... so many are up to date
        self._address = 0  # where the array lies

    def share(self) -> BlockTable:
        """Another holder of the same blocks."""
        self.pool.hold(self.blocks)
        return BlockTable(self.pool, self.blocks)

    def clear(self) -> None:
        """Drops every block."""
        _drop_all(self.pool, self.blocks)
        self._known = 0

    def missing(self, start: int, end: int) -> int:
        """How many blocks `reserve` would take from the pool."""
        low, high = start // BLOCK_TOKENS, -(-end // BLOCK_TOKENS)
        shared = sum(self.pool.users(block) > 1 for block in self.blocks[low:high])
        return max(high - len(self.blocks), 0) + shared

    def reserve(self, start: int, end: int) -> None:
        """Makes sure that entries of tokens start .. end - 1 can be written: blocks of its own.

        Raises InputError if the pool has too few left; then nothing has changed.
        """
        needed = self.missing(start, end)
        if not needed:
            return
        fresh = self.pool.allocate(needed)
        for i in range(start // BLOCK_TOKENS, len(self.blocks)):
            if self.pool.users(self.blocks[i]) > 1 and i * BLOCK_TOKENS < end:
                copy = fresh.pop()
                self.pool.bytes(copy)[:] = self.pool.bytes(self.blocks[i])
                self.pool.drop([self.blocks[i]])
                self.blocks[i] = copy
                self._known = min(self._known, i)
        self.blocks += fresh

    def replace(self, index: int, block: int) -> None:
        """Uses `block`, whose bytes are the same, in place of its own at `index`."""
        if self.blocks[index] != block:
            self.pool.hold([block])
            self.pool.drop([self.blocks[index]])
            self.blocks[index] = block
            self._known = min(self._known, index)

    def extend(self, count: int) -> None:
        """Takes `count` more blocks from the pool, ahead of need (InputError: too few left)."""
        self.blocks += self.pool.allocate(count)

    def locate(self) -> int:
        """Where an int64 array of the blocks' addresses lies, until the table changes."""
        if self._known < len(self.blocks):
            if len(self.blocks) > len(self._array):
                grown = np.empty(2 * len(self.blocks), np.int64)
                grown[: self._known] = self._array[: self._known]
                self._array, self._address = grown, grown.ctypes.data
            for i in range(self._known, len(self.blocks)):
                self._array[i] = self.pool.bytes(self.blocks[i]).data_ptr()
            self._known = len(self.blocks)
        return self._address


def _drop_all(pool: BlockPool, blocks: list[int]) -> None:
    pool.drop(blocks)
    blocks.clear()


class RequestMemory:
    """What operators read and write of one request: `rings`, its own bytes, and its block table."""

    def __init__(self, pool: BlockPool, ring_bytes: int) -> None:
        with torch.inference_mode(False):  # as in the pool
            self.rings = torch.empty(ring_bytes, dtype=torch.uint8, device=pool.device)
        if pool.poison:
            self.rings.fill_(POISON)
        self.address = self.rings.data_ptr()
        self.table = BlockTable(pool)

    def ring(self, place: Place, low: int, high: int) -> Tensor:
        """The bytes of ring rows low .. high - 1, in order: a copy [high - low, bytes]."""
        return self._slots(place)[torch.arange(low, high, device=self.rings.device) % place.count]

    def write_ring(self, place: Place, low: int, rows_NB: Tensor) -> None:
        """Puts the bytes of rows low, low + 1, ..., at most `count`, into their slots."""
        high = low + rows_NB.shape[0]
        slots = torch.arange(low, high, device=self.rings.device) % place.count
        self._slots(place)[slots] = rows_NB

    def _slots(self, place: Place) -> Tensor:
        size = place.count * place.format.nbytes
        return self.rings[place.offset : place.offset + size].view(place.count, -1)

    def entries(self, place: Place, count: int, dtype: torch.dtype) -> Tensor:
        """The first `count` compressed entries [count, width] in `dtype`."""
        if count == 0:
            return torch.empty(0, place.format.width, dtype=dtype, device=self.rings.device)
        blocks = self.table.blocks[: -(-count // place.count)]
        size = place.count * place.format.nbytes
        rows = self.table.pool.rows(blocks, place.offset, place.offset + size)
        return place.format.unpack(rows.view(-1, place.format.nbytes)[:count], dtype)

    def write_entries(self, place: Place, first: int, x_NC: Tensor) -> None:
        """Compressed entries first, first + 1, ..."""
        rows_NB, nbytes = place.format.pack(x_NC), place.format.nbytes
        for i, row in enumerate(rows_NB, start=first):
            at = place.offset + i % place.count * nbytes
            self.table.pool.bytes(self.table.blocks[i // place.count])[at : at + nbytes] = row


@dataclass(slots=True)
class Span:
    """One request's share of a flat batch: rows low .. high - 1, at positions start, start + 1, ...

    Without a memory the sequence begins here (start = 0) and is forgotten behind the forward pass.
    oldest: window rows before this position are unknown.
    frozen: entries of tokens before this position are in the blocks already and stay as they are.
    """

    low: int
    high: int
    start: int
    memory: RequestMemory | None = None
    oldest: int = 0
    frozen: int = 0

    @property
    def rows(self) -> slice:
        """Its rows of every flat tensor."""
        return slice(self.low, self.high)

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + self.high - self.low


class Spans:
    """The requests of one forward pass, in order and without gaps."""

    def __init__(self, spans: list[Span], device: torch.device | str = "cpu") -> None:
        self.spans, self.device = spans, device
        self.lengths = [span.high - span.low for span in spans]
        self.remembered = bool(spans) and spans[0].memory is not None  # all have, or none
        self.longest = max((span.end for span in spans), default=0)  # a request's tokens, after
        self.native: Any = None  # what a backend keeps about them

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    @cached_property
    def positions(self) -> Tensor:
        """Every token's position in its request, int64 [T]."""
        positions = [position for span in self.spans for position in range(span.start, span.end)]
        return torch.tensor(positions, dtype=torch.int64, device=self.device)


Entries = Place | Tensor  # in blocks, or dense: those of all requests end to end [M, width]
