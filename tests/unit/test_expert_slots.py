"""Reading byte ranges of files into slots: whole blocks, few reads, past the page cache or not."""

from pathlib import Path

import numpy as np
import pytest

from dougong.checkpoint import Extent
from dougong.errors import CheckpointError
from dougong.model import expert_slots
from dougong.model.expert_slots import BLOCK, Slots, plan_reads
from dougong.model.expert_usage import HALF_LIFE, Usage


def file_of(path: Path, num_bytes: int) -> bytes:
    content = np.random.default_rng(num_bytes).bytes(num_bytes)
    path.write_bytes(content)
    return content


def held(slots: Slots, slot: int, offset: int, num_bytes: int) -> bytes:
    return slots.array(slot, offset, np.empty(num_bytes, np.uint8)).tobytes()


def test_neighbours_are_read_at_once_and_strangers_by_themselves(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    extents = [
        Extent(one, 100_000, 150_001),
        Extent(two, 3, 5),
        Extent(one, 10_001, 20_000),
        Extent(one, 20_000, 30_000),
    ]
    plan = plan_reads(extents)
    assert [(run.path, run.begin) for run in plan.runs] == [(one, 8192), (one, 98304), (two, 0)]
    assert all(run.begin % BLOCK == run.length % BLOCK == run.offset % BLOCK == 0
               for run in plan.runs)  # fmt: skip
    assert plan.nbytes == sum(run.length for run in plan.runs)


@pytest.mark.parametrize("direct", [True, False])
def test_slots_hold_the_files_bytes(
    direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        monkeypatch.setattr(expert_slots, "_DIRECT", 0)
    content = file_of(tmp_path / "a", 50_003)  # ends inside a block
    other = file_of(tmp_path / "b", 10)
    extents = [
        Extent(tmp_path / "a", 40_001, 50_003),
        Extent(tmp_path / "a", 7, 4097),
        Extent(tmp_path / "b", 0, 10),
    ]
    plan = plan_reads(extents)
    slots = Slots(3, plan.nbytes)
    for slot in (2, 0):
        slots.fill(slot, plan).result()
        for extent, offset in zip(extents, plan.offsets, strict=True):
            whole = content if extent.path.name == "a" else other
            wanted = whole[extent.begin : extent.end]
            assert held(slots, slot, offset, len(wanted)) == wanted
    assert held(slots, 1, 0, slots.nbytes) == bytes(slots.nbytes)
    assert slots.bytes_read >= 2 * sum(extent.end - extent.begin for extent in extents)
    assert slots.busy_s > 0


def test_a_file_that_became_shorter_or_went_away_is_said(tmp_path: Path) -> None:
    file_of(tmp_path / "a", 9000)
    plan = plan_reads([Extent(tmp_path / "a", 5000, 9000)])
    slots = Slots(1, plan.nbytes)
    (tmp_path / "a").write_bytes(bytes(6000))
    with pytest.raises(CheckpointError, match="has become shorter"):
        slots.fill(0, plan).result()
    missing = plan_reads([Extent(tmp_path / "b", 0, 1)])
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        slots.fill(0, missing).result()


def test_the_chance_of_use_forgets_by_half_each_half_life() -> None:
    usage = Usage(2, 4, top_k=2)
    assert (usage.chance_LE == 0.5).all()
    usage.note(0, np.array([1000, 0, 0, 1000]), 1000)
    assert usage.chance_LE[0] == pytest.approx([1, 0, 0, 1], abs=1e-3)
    assert (usage.chance_LE[1] == 0.5).all()
    # The earlier tokens, 1,000 and the first, count a half now; the new ones in full.
    old = (1000 + 0.5**(1000 / HALF_LIFE)) / 2  # fmt: skip
    usage.note(0, np.array([0, 0, HALF_LIFE, HALF_LIFE]), HALF_LIFE)
    wanted = HALF_LIFE / (HALF_LIFE + old)
    assert usage.chance_LE[0, 2] == pytest.approx(wanted, abs=1e-3)
    assert usage.chance_LE[0, 3] == pytest.approx(1, abs=1e-3)


def test_the_least_used_goes_and_the_likeliest_are_read_ahead() -> None:
    usage = Usage(2, 4, top_k=2)
    usage.note(0, np.array([10, 1, 4, 5]), 10)
    usage.note(1, np.array([0, 0, 10, 10]), 10)
    assert usage.least(np.array([0, 2, 3])) == 1
    assert usage.least(np.array([1, 7])) == 0
    assert usage.least(np.array([3, 4])) == 1
    assert usage.likely(0, 1) == [0]  # 3 has been used by less than half of the tokens
    # With the half token of the start: used by four with chances 1, 0.93, 0.88; expert 1 with 0.44.
    assert usage.likely(0, 4) == [0, 3, 2]
