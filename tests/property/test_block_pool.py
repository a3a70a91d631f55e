"""The block pool under random use: no leak, no block freed too early, no write into shared ones."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dougong.errors import InputError
from dougong.kernels.paged import BLOCK_TOKENS, POISON, BlockPool, BlockTable

LIMIT = 24  # blocks
tokens = st.integers(0, 5 * BLOCK_TOKENS)


class Holder:
    """A table, how many tokens it has, and what every block of it must hold."""

    def __init__(self, table: BlockTable, length: int, contents: list[int]) -> None:
        self.table, self.length, self.contents = table, length, contents


class PoolMachine(RuleBasedStateMachine):
    """Tables grow, are taken back, shared and dropped; each write has a value of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(64, LIMIT, poison=True)
        self.holders: list[Holder] = []
        self.written = 0

    def pick(self, data: st.DataObject) -> Holder:
        # by number: hypothesis keeps what it has drawn, and a holder must be able to go
        return self.holders[data.draw(st.integers(0, len(self.holders) - 1))]

    @rule()
    def new(self) -> None:
        self.holders.append(Holder(BlockTable(self.pool), 0, []))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), count=tokens)
    def grow(self, data: st.DataObject, count: int) -> None:
        holder = self.pick(data)
        table, end = holder.table, holder.length + count
        needed, free = table.missing(holder.length, end), self.pool.num_free
        before = list(table.blocks)
        try:
            table.reserve(holder.length, end)
        except InputError:
            assert needed > free
            assert table.blocks == before
            assert self.pool.num_free == free
            return
        assert self.pool.num_free == free - needed
        holder.contents += [0] * (len(table.blocks) - len(holder.contents))
        for i in range(holder.length // BLOCK_TOKENS, -(-end // BLOCK_TOKENS)):
            self.written = self.written % 250 + 1
            self.pool.bytes(table.blocks[i]).fill_(self.written)
            holder.contents[i] = self.written
        holder.length = end

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), count=tokens)
    def take_back(self, data: st.DataObject, count: int) -> None:
        holder = self.pick(data)
        holder.length = max(holder.length - count, 0)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        holder = self.pick(data)
        copy = BlockTable(self.pool, holder.table.blocks)
        self.pool.hold(copy.blocks)
        self.holders.append(Holder(copy, holder.length, list(holder.contents)))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), explicitly=st.booleans())
    def drop(self, data: st.DataObject, explicitly: bool) -> None:
        holder = self.pick(data)
        self.holders.remove(holder)
        if explicitly:
            holder.table.clear()
            holder.table.clear()  # nothing left to drop

    @invariant()
    def every_block_has_as_many_users_as_hold_it(self) -> None:
        held = [block for holder in self.holders for block in holder.table.blocks]
        for block in range(LIMIT):
            assert self.pool.users(block) == held.count(block)
        assert self.pool.num_used == len(set(held)) == LIMIT - self.pool.num_free

    @invariant()
    def nobody_else_wrote(self) -> None:
        for holder in self.holders:
            for block, value in zip(holder.table.blocks, holder.contents, strict=True):
                assert (self.pool.bytes(block) == value).all()

    @invariant()
    def free_blocks_are_poisoned(self) -> None:
        for block in range(LIMIT):
            if self.pool.users(block) == 0:
                assert (self.pool.bytes(block) == POISON).all()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_addresses_are_those_of_the_blocks_wherever_they_lie() -> None:
    pool = BlockPool(40)
    for count in (1, 30, 700):  # several slabs
        table = BlockTable(pool)
        table.reserve(0, count * BLOCK_TOKENS)
        found = (ctypes.c_int64 * count).from_address(table.locate())
        assert list(found) == [pool.bytes(block).data_ptr() for block in table.blocks]
        assert torch.equal(
            pool.rows(table.blocks, 8, 24), torch.stack([pool.bytes(b)[8:24] for b in table.blocks])
        )


def test_a_full_pool_says_what_is_missing() -> None:
    pool = BlockPool(8, 3)
    pool.allocate(2)
    with pytest.raises(InputError, match="2 more blocks of 128 tokens are needed and 1 of 3 are"):
        pool.allocate(2)
    assert pool.num_free == 1


def test_blocks_can_lie_in_a_file(tmp_path: Path) -> None:
    pool = BlockPool(16, 4, file=tmp_path / "state")
    (block,) = pool.allocate()
    pool.bytes(block).fill_(7)
    assert (tmp_path / "state").read_bytes().count(7) == 16
    assert pool.used_bytes == 16
