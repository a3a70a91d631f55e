"""What a request remembers between forward passes.

Recent rows (window entries, the compressors' pending tokens) are kept in rings, compressed entries
in blocks of 128 tokens. Everything is indexed by absolute position, so taking tokens back is
counting back: a rejected draft costs nothing and no tail can go stale. A snapshot shares blocks
and copies the few recent rows that going on needs.
Source: architecture specification 2.6, traps 19, 20; infrastructure specification 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dougong.errors import InputError
from dougong.kernels.paged import BLOCK_TOKENS, BlockPool, BlockTable, RequestMemory, Span
from dougong.model.layout import ROLLBACK_TOKENS, Piece, StateLayout


class Snapshot:
    """A request's state at one length, immutable: to go on from, keep, or write to disk.

    blocks: names of its blocks in the pool, held until `release` (or the end of this object).
    recent: uint8 bytes of everything else: a head of int64 (length, shortest length it can be
    rolled back to, first known window position, then length and first known position of each MTP
    block), then the rows that `StateLayout.recent` lists, in position order.
    """

    def __init__(self, table: BlockTable, recent: Tensor) -> None:
        self._table, self.recent = table, recent

    @property
    def blocks(self) -> list[int]:
        """Its blocks in order, the last one possibly incomplete."""
        return self._table.blocks

    @property
    def length(self) -> int:
        """Tokens that it stands for."""
        return int(self.recent[:8].view(torch.int64))

    def release(self) -> None:
        """Gives its blocks back."""
        self._table.clear()


class RequestState:
    """The whole memory of one request: `length` tokens in the main layers, fewer in MTP blocks.

    Args: pool: where blocks come from; None makes one that grows, for this state alone.
    """

    def __init__(
        self,
        layout: StateLayout,
        pool: BlockPool | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.layout, self.pool = layout, pool or BlockPool(layout.block_bytes, device=device)
        self.memory = RequestMemory(self.pool, layout.ring_bytes)
        self.length = self.frozen = 0  # entries of tokens before `frozen` are known already
        self.mtp_lengths = [0] * (len(layout.layers) - layout.num_layers)
        self._floor = 0  # it cannot be rolled back to fewer tokens
        self._oldest = [0] * (1 + len(self.mtp_lengths))  # first known window rows: main, MTP

    def blocks_needed(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` more tokens would take from the pool."""
        if not self.layout.block_bytes:
            return 0
        end = self.length + num_tokens
        return self.memory.table.missing(max(self.length, self.frozen), end)

    def reserve(self, num_tokens: int) -> None:
        """Takes the blocks that `num_tokens` more tokens need.

        Raises InputError if the pool has too few; the state is then unchanged.
        """
        if self.layout.block_bytes:
            end = self.length + num_tokens
            self.memory.table.reserve(max(self.length, self.frozen), end)

    def span(self, low: int, num_tokens: int, block: int | None = None) -> Span:
        """Its next tokens as rows low, ... of a flat batch, in the main layers or an MTP block."""
        start = self.length if block is None else self.mtp_lengths[block]
        oldest = self._oldest[0 if block is None else 1 + block]
        return Span(low, low + num_tokens, start, self.memory, oldest, self.frozen)

    def advance(self, num_tokens: int) -> None:
        """Called by the model after the main layers took `num_tokens` more tokens."""
        self.length += num_tokens
        self._floor = max(self._floor, self.length - ROLLBACK_TOKENS)

    def advance_mtp(self, block: int, num_tokens: int) -> None:
        """Called by the model after an MTP block took `num_tokens` more tokens."""
        self.mtp_lengths[block] += num_tokens

    def skip_mtp(self, block: int, position: int) -> None:
        """Lets an MTP block go on at `position` without the tokens before; drafts may get worse."""
        self.mtp_lengths[block] = self._oldest[1 + block] = position

    def rollback_mtp(self, block: int, position: int) -> None:
        """Lets an MTP block go on at `position` again, at most 16 tokens back: guesses went on."""
        assert 0 <= self.mtp_lengths[block] - position <= ROLLBACK_TOKENS
        self.mtp_lengths[block] = position

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last `num_tokens` tokens, 16 at most counted from the longest state.

        Raises InputError if that is more than the state can undo; the state is then unchanged.
        """
        possible = max(self.length - self._floor, 0)
        if not 0 <= num_tokens <= possible:
            raise InputError(
                f"rollback: {num_tokens} tokens cannot be taken back, only 0 to {possible}; "
                "keep a snapshot to go back further"
            )
        self.length -= num_tokens
        self.mtp_lengths = [min(length, self.length) for length in self.mtp_lengths]
        self.frozen = min(self.frozen, self.length)

    def snapshot(self, rollback: int = ROLLBACK_TOKENS) -> Snapshot:
        """The state as it is, to `restore` any number of times.

        `rollback`: how many tokens a restored state can take back (fewer if this one cannot); 0 is
        smallest, above all at multiples of 128.
        """
        rollback = max(min(rollback, self.length - self._floor), 0)
        head = [self.length, self.length - rollback, self._oldest[0]]
        for length, oldest in zip(self.mtp_lengths, self._oldest[1:], strict=True):
            head += [length, oldest]
        rows = [
            self.memory.ring(piece.place, piece.low, piece.high).flatten()
            for piece in self.layout.recent(self.length, self.mtp_lengths, rollback)
        ]
        head_bytes = torch.tensor(head).view(torch.uint8).to(self.pool.device)
        return Snapshot(self.memory.table.share(), torch.cat([head_bytes, *rows]))

    def restore(self, snapshot: Snapshot) -> None:
        """Becomes what the snapshot holds; it stays usable. Both must be of one pool."""
        self.resume(snapshot.blocks, snapshot.recent)

    def resume(self, blocks: Sequence[int], recent: Tensor, known: int = 0) -> None:
        """Becomes a request with entries in `blocks` and the `recent` bytes of a snapshot.

        `known`: of how many tokens the blocks hold the entries, where that is more than the
        snapshot's length. These are not written again; the tokens given next must then be those
        that they were made of.
        Raises InputError for bytes that are no snapshot of this layout, or too few blocks.
        """
        head, pieces = self._pieces(recent)
        length, floor, oldest, *mtp = head
        needed = -(-max(length, known) // BLOCK_TOKENS) if self.layout.block_bytes else 0
        if len(blocks) < needed:
            raise InputError(
                f"snapshot: {len(blocks)} blocks are not those of {max(length, known)} tokens"
            )
        self._take(blocks, length, floor, known)
        self.mtp_lengths, self._oldest = mtp[::2], [oldest, *mtp[1::2]]
        at = 8 * len(head)
        for piece in pieces:
            rows = recent[at : at + piece.nbytes].view(-1, piece.place.format.nbytes)
            self.memory.write_ring(piece.place, piece.low, rows)
            at += piece.nbytes

    def recent_length(self, recent: Tensor) -> int:
        """Tokens that the `recent` bytes of a snapshot stand for; InputError as in `resume`."""
        return self._pieces(recent)[0][0]

    def _pieces(self, recent: Tensor) -> tuple[list[int], list[Piece]]:
        """The head of a snapshot's recent bytes, and which rows follow it."""
        head_bytes = 8 * (3 + 2 * len(self.mtp_lengths))
        if recent.numel() < head_bytes:
            raise InputError(f"snapshot: {recent.numel()} bytes are too few for this model")
        head: list[int] = recent[:head_bytes].clone().view(torch.int64).tolist()
        length, floor, _, *mtp = head
        pieces = list(self.layout.recent(length, mtp[::2], length - floor))
        if recent.numel() != head_bytes + sum(piece.nbytes for piece in pieces):
            raise InputError(
                f"snapshot: {recent.numel()} bytes are not those of {length} tokens; was it taken "
                "from another model or in another number type?"
            )
        return head, pieces

    def replay(self, blocks: Sequence[int], start: int) -> None:
        """Becomes a request with complete entries in `blocks` that knows no window before `start`.

        Given again the tokens from `start` up to the blocks' end, its windows are exact there if
        these are at least layers * (window - 1); before, its outputs are not.
        """
        known = len(blocks) * BLOCK_TOKENS
        self._take(blocks, start, known, known)
        self.mtp_lengths = [start for _ in self.mtp_lengths]
        self._oldest = [start for _ in self._oldest]

    def _take(self, blocks: Sequence[int], length: int, floor: int, known: int) -> None:
        """Stands at `length` with `blocks` instead of its own."""
        self.pool.hold(blocks)
        self.memory.table.clear()
        self.memory.table = BlockTable(self.pool, blocks)
        self.length, self._floor, self.frozen = length, floor, known

    def fork(self) -> RequestState:
        """An independent request with the same past, in the same pool."""
        other = RequestState(self.layout, self.pool)
        other.restore(self.snapshot())
        return other

    def release(self) -> None:
        """Gives the blocks back; the state is empty afterwards."""
        self._take([], 0, 0, 0)
        self.mtp_lengths = [0 for _ in self.mtp_lengths]
        self._oldest = [0 for _ in self._oldest]

    @property
    def num_bytes(self) -> int:
        """Bytes of its rings and blocks, shared ones included."""
        return self.layout.ring_bytes + len(self.memory.table.blocks) * self.layout.block_bytes
