"""What a request remembers changes no bit: not its pool, its neighbours, copies or replays.

Every comparison is with the request alone, given its tokens at once to a model without memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.goldens import FOLDER
from support.tiny import write_tiny_checkpoint
from torch import Tensor

from dougong.errors import InputError
from dougong.kernels.paged import POISON, BlockPool
from dougong.model import transformer
from dougong.model.layout import ROLLBACK_TOKENS, StateLayout
from dougong.model.loading import load_model
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer

LENGTH = 420  # tokens of each request
few = settings(max_examples=12, deadline=None)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("memory") / "tiny")
    return load_model(folder, backend="cpu", fallback=False)


@pytest.fixture(scope="module")
def release() -> Transformer:
    """A published-format model with the release's rounding: entries in FP8 and FP4."""
    return load_model(
        FOLDER / "sq2_mtp", backend="cpu", fallback=False, dtype=torch.bfloat16, rounding="release"
    )


def ids_of(seed: int, count: int = LENGTH) -> Tensor:
    return torch.randint(0, 160, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def wanted(model: Transformer, release: Transformer) -> dict[Transformer, list[Tensor]]:
    """The streams behind each request's tokens, for four requests."""
    with torch.inference_mode():
        return {m: [m(ids_of(i), [LENGTH]) for i in range(4)] for m in (model, release)}


class Reader:
    """Requests read their tokens, and each result is compared with the request alone."""

    def __init__(self, model: Transformer, wanted: list[Tensor], pool: BlockPool) -> None:
        self.model, self.wanted, self.pool = model, wanted, pool
        self.states = {i: model.new_state(pool) for i in range(len(wanted))}

    def read(self, shares: dict[int, int]) -> None:
        """`shares`: how many more tokens each request reads, in one forward pass."""
        shares = {i: min(n, LENGTH - self.states[i].length) for i, n in shares.items()}
        shares = {i: n for i, n in shares.items() if n}
        if not shares:
            return
        starts = {i: self.states[i].length for i in shares}
        ids = torch.cat([ids_of(i)[starts[i] : starts[i] + n] for i, n in shares.items()])
        lengths = list(shares.values())
        streams = self.model(ids, lengths, [self.states[i] for i in shares])
        for (i, n), got in zip(shares.items(), streams.split(lengths), strict=True):
            assert torch.equal(got, self.wanted[i][starts[i] : starts[i] + n]), (i, starts[i], n)


def poisoned_pool(model: Transformer, blocks: int = 64) -> BlockPool:
    return BlockPool(model.layout.block_bytes, blocks, poison=True)


@pytest.mark.parametrize("name", ["model", "release"])
@few
@given(data=st.data())
def test_requests_in_one_pool_get_the_bits_of_each_alone(
    name: str, data: st.DataObject, request: pytest.FixtureRequest, wanted
) -> None:
    subject: Transformer = request.getfixturevalue(name)
    pool = poisoned_pool(subject)
    reader = Reader(subject, wanted[subject], pool)
    size = st.sampled_from([1, 1, 1, 2, 3, 7, 16, 65, 130, 200])
    for _ in range(data.draw(st.integers(4, 12))):
        who = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
        reader.read({i: data.draw(size) for i in who})
        one = data.draw(st.integers(0, 3))
        state = reader.states[one]
        action = data.draw(st.sampled_from(["none", "draft", "fork", "preempt", "forget"]))
        if action == "draft" and state.length:
            drafts = data.draw(st.integers(1, ROLLBACK_TOKENS))
            subject(torch.full((drafts,), 3), [drafts], [state])
            state.rollback(drafts)
        elif action == "fork":
            reader.states[one] = state.fork()
            if state.length:
                subject(torch.full((5,), 9), [5], [state])  # the other one goes elsewhere
        elif action == "preempt":
            kept = state.snapshot(rollback=data.draw(st.sampled_from([0, ROLLBACK_TOKENS])))
            state.release()
            reader.states[one] = subject.new_state(pool)
            reader.states[one].restore(kept)
            kept.release()
        elif action == "forget":
            state.release()
    for state in reader.states.values():
        state.release()
    del reader, state
    assert pool.num_used == 0
    assert all((pool.bytes(block) == POISON).all() for block in range(64))


def test_a_recorded_step_is_the_unrecorded_one(model: Transformer, wanted) -> None:
    pool, rows = poisoned_pool(model), {}
    for records in (True, False):
        model.records_steps = records
        reader = Reader(model, wanted[model], pool)
        for share in ({0: 131, 1: 5, 2: 1}, {0: 1, 1: 1, 2: 1}, {2: 9, 1: 2}, {0: 60, 3: 4}):
            reader.read(share)
        rows[records] = model(ids_of(7, 3), [1, 2], [reader.states[0], reader.states[3]])
    model.records_steps = True
    assert torch.equal(rows[True], rows[False])


def test_the_releases_bytes_lose_nothing(
    release: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = {places.window.format.kind for places in release.layout.layers}
    assert formats == {"fp8"}

    def plain(config, dtype, *, rounded):
        return StateLayout(config, dtype, rounded=False)

    monkeypatch.setattr(transformer, "StateLayout", plain)
    floats = load_model(FOLDER / "sq2_mtp", backend="cpu", dtype=torch.bfloat16, rounding="release")
    assert floats.layout.layers[0].window.format.kind == "bfloat16"
    ids, outputs = ids_of(0), []
    for subject in (release, floats):
        state = subject.new_state()
        parts = [subject(ids[i : i + n], [n], [state]) for i, n in ((0, 300), (300, 1), (301, 99))]
        drafted = subject.mtp_streams(torch.cat(parts), ids[1:401], [400], [state])
        outputs.append(torch.cat([*parts, drafted]))
    assert torch.equal(*outputs)
    assert release.layout.bytes_per_token < 0.6 * floats.layout.bytes_per_token


@pytest.mark.parametrize("boundary", [128, 256, 384])
def test_a_snapshot_at_a_block_boundary_is_small_and_goes_on_anywhere(
    model: Transformer, wanted, boundary: int
) -> None:
    pool = poisoned_pool(model)
    reader = Reader(model, wanted[model], pool)
    reader.read({0: boundary})
    state = reader.states[0]
    snapshot = state.snapshot(rollback=0)
    layout = model.layout
    pending = sum(4 * p.indexer.tokens.format.nbytes + 4 * p.compressor.tokens.format.nbytes
                  for p in layout.layers if p.indexer and p.compressor)  # fmt: skip
    windows = sum((layout.window - 1) * p.window.format.nbytes for p in layout.layers[:-1])
    head = 8 * (3 + 2 * len(state.mtp_lengths))
    assert snapshot.recent.numel() == head + windows + pending  # no MTP block has read anything
    assert snapshot.blocks == state.memory.table.blocks
    other = BlockPool(layout.block_bytes, 8)  # as from disk: other blocks, the same bytes
    blocks = other.allocate(boundary // 128)
    for mine, theirs in zip(blocks, snapshot.blocks, strict=True):
        other.bytes(mine)[:] = pool.bytes(theirs)
    fresh = model.new_state(other)
    fresh.resume(blocks, snapshot.recent.clone())
    reader.states[0] = fresh
    with pytest.raises(InputError, match="only 0 to 0"):
        fresh.rollback(1)
    reader.read({0: 3})
    reader.read({0: LENGTH})


def test_bytes_of_another_state_are_refused(model: Transformer, release: Transformer) -> None:
    state = release.new_state()
    release(ids_of(0, 130), [130], [state])
    snapshot = state.snapshot()
    fresh = model.new_state()
    for recent in (snapshot.recent, snapshot.recent[:100], snapshot.recent[:4]):
        with pytest.raises(InputError, match="snapshot: "):
            fresh.resume([], recent)
    same = release.new_state(state.pool)
    with pytest.raises(InputError, match="1 blocks are not those of 130 tokens"):
        same.resume(snapshot.blocks[:1], snapshot.recent)


def test_windows_replayed_over_known_entries_are_exact(model: Transformer, wanted) -> None:
    """layers * (window - 1) tokens are enough; with one fewer something is missing."""
    pool = poisoned_pool(model)
    state = model.new_state(pool)
    known = 384
    model(ids_of(0)[:known], [known], [state])
    reach = len(model.layers) * (model.config.sliding_window - 1)
    assert reach < known
    for missing in (0, 1):
        fresh = model.new_state(pool)
        start = known - reach + missing
        fresh.replay(state.memory.table.blocks, start)
        model(ids_of(0)[start:known], [known - start], [fresh])
        assert [pool.users(block) for block in state.memory.table.blocks] == [2] * 3
        streams = model(ids_of(0)[known : known + 30], [30], [fresh])
        assert torch.equal(streams, wanted[model][0][known : known + 30]) == (missing == 0)


def test_a_resumed_state_does_not_write_what_it_was_given(model: Transformer, wanted) -> None:
    pool = poisoned_pool(model)
    state = model.new_state(pool)
    model(ids_of(0)[:128], [128], [state])
    early = state.snapshot(rollback=0)
    model(ids_of(0)[128:384], [256], [state])
    for block in state.memory.table.blocks:
        before = pool.bytes(block).clone()
        fresh = model.new_state(pool)
        fresh.resume(state.memory.table.blocks, early.recent, known=384)
        streams = model(ids_of(0)[128:400], [272], [fresh])
        assert torch.equal(streams, wanted[model][0][128:400])
        assert torch.equal(pool.bytes(block), before)


def test_rings_are_written_nowhere_else(model: Transformer) -> None:
    state, guard = model.new_state(), 256
    buffer = torch.full((model.layout.ring_bytes + 2 * guard,), POISON, dtype=torch.uint8)
    state.memory.rings = buffer[guard:-guard]
    state.memory.address = state.memory.rings.data_ptr()
    for count in (1, 300, 1, 5):
        model(ids_of(0, count), [count], [state])
    assert (buffer[:guard] == POISON).all()
    assert (buffer[-guard:] == POISON).all()


def test_a_full_pool_refuses_before_anything_changes(model: Transformer, wanted) -> None:
    pool = poisoned_pool(model, 2)
    reader = Reader(model, wanted[model], pool)
    reader.read({0: 250})
    state: RequestState = reader.states[0]
    assert state.blocks_needed(6) == 0
    assert state.blocks_needed(7) == 1
    with pytest.raises(InputError, match="state memory: 1 more blocks"):
        model(ids_of(0)[250:260], [10], [state])
    reader.read({0: 6})


def test_a_file_can_hold_the_blocks(model: Transformer, wanted, tmp_path: Path) -> None:
    pool = BlockPool(model.layout.block_bytes, 8, file=tmp_path / "blocks")
    reader = Reader(model, wanted[model], pool)
    reader.read({0: 200})
    reader.read({0: 200})
