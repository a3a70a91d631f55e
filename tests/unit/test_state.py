"""Request states: rolling back, snapshots, unequal requests side by side."""

import pytest
import torch
from support.goldens import TOLERANCE, expected, full, model, wanted

from dougong.errors import InputError
from dougong.model.layout import ROLLBACK_TOKENS

NAME = "s4_mixed_mtp"  # window, CSA and HCA layers and an MTP block


@pytest.fixture(scope="module")
def golden():
    with torch.no_grad():
        yield model(NAME)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


IDS = expected(NAME)["input_ids"][0]
WANT = wanted(NAME, "logits")[0]


def feed(golden, ids, state) -> torch.Tensor:
    return golden.logits(golden(ids, [len(ids)], [state]))


@pytest.mark.parametrize("length", [3, 8, 125, 127, 128, 129, 131, 255, 256, 259, 383])
def test_rejected_drafts_leave_no_trace(golden, length: int) -> None:
    for drafts in (1, 2, 3, 4, 5, ROLLBACK_TOKENS):
        state = golden.new_state()
        feed(golden, IDS[:length], state)
        feed(golden, torch.full((drafts,), 7), state)
        state.rollback(drafts)
        assert state.length == length
        rest = feed(golden, IDS[length : length + 6], state)
        assert (rest - WANT[length : length + 6]).abs().max() < TOLERANCE


def test_drafting_at_every_step_gives_the_same_logits(golden) -> None:
    state = golden.new_state()
    feed(golden, IDS[:250], state)
    for at in range(250, 270):  # across an HCA boundary and every residue mod 4
        logits = feed(golden, torch.cat([IDS[at : at + 1], torch.tensor([3, 5, 9])]), state)
        assert (logits[0] - WANT[at]).abs().max() < TOLERANCE
        state.rollback(3)


def test_more_than_can_be_undone_is_refused_and_changes_nothing(golden) -> None:
    state = golden.new_state()
    feed(golden, IDS[:200], state)
    with pytest.raises(InputError, match="17 tokens cannot be taken back, only 0 to 16"):
        state.rollback(ROLLBACK_TOKENS + 1)
    state.rollback(10)
    with pytest.raises(InputError, match="only 0 to 6"):
        state.rollback(7)
    rest = feed(golden, IDS[190:200], state)
    assert (rest - WANT[190:200]).abs().max() < TOLERANCE


@pytest.mark.parametrize("length", [1, 4, 126, 128, 130])
def test_a_snapshot_is_independent_of_what_comes_after(golden, length: int) -> None:
    state = golden.new_state()
    feed(golden, IDS[:length], state)
    snapshot = state.snapshot()
    feed(golden, torch.full((300,), 9), state)
    for _ in range(2):  # a snapshot can be restored any number of times
        state.restore(snapshot)
        rest = feed(golden, IDS[length : length + 150], state)
        assert (rest - WANT[length : length + 150]).abs().max() < TOLERANCE


def test_a_fork_can_still_roll_back(golden) -> None:
    state = golden.new_state()
    feed(golden, IDS[:160], state)
    copy = state.fork()
    feed(golden, torch.full((100,), 9), state)
    copy.rollback(ROLLBACK_TOKENS)
    rest = feed(golden, IDS[144:160], copy)
    assert (rest - WANT[144:160]).abs().max() < TOLERANCE


def test_unequal_requests_lie_side_by_side_without_padding(golden) -> None:
    lengths = [1, 130, 5, 260]
    streams = golden(torch.cat([IDS[:n] for n in lengths]), lengths)
    for part, n in zip(golden.logits(streams).split(lengths), lengths, strict=True):
        assert (part - WANT[:n]).abs().max() < TOLERANCE


def test_mtp_decodes_as_it_prefills_and_rolls_back(golden) -> None:
    want = wanted(NAME, "mtp_logits")[0]
    _, streams = full(golden, IDS[None])
    state, at = golden.new_state(), 0
    for size in (100, 1, 1, 30, 1):
        part = slice(at, at + size)
        golden(IDS[part], [size], [state])
        hidden = golden.mtp_streams(streams[0, part], IDS[at + 1 : at + size + 1], [size], [state])
        assert (golden.mtp_logits(hidden) - want[part]).abs().max() < TOLERANCE
        at += size
    state.rollback(5)
    part = slice(at - 5, at)
    golden(IDS[part], [5], [state])
    hidden = golden.mtp_streams(streams[0, part], IDS[at - 4 : at + 1], [5], [state])
    assert (golden.mtp_logits(hidden) - want[part]).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        (torch.tensor([0, 160]), [2], "do not fit a vocabulary of 160"),
        (torch.tensor([-1]), [1], "do not fit a vocabulary"),
        (torch.tensor([1, 2]), [1], "must be positive and add up to the 2 token ids"),
        (torch.tensor([[1, 2]]), [2], "need int64 of one dimension"),
        (torch.zeros(4097, dtype=torch.int64), [4097], "exceed max_position_embeddings = 4096"),
    ],
)
def test_bad_input_is_one_sentence(golden, ids, lengths, message: str) -> None:
    with pytest.raises(InputError, match=message):
        golden(ids, lengths)
