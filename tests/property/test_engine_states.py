"""Prefix cache, disk, preemption and restarts of the states: the bits of a cold start, `==`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from support.tiny import tiny_config

import dougong
from dougong.engine.core import Core
from dougong.engine.disk_store import DiskStore
from dougong.engine.prefix_cache import Node, PrefixCache
from dougong.engine.request import Finish, Job, Reply
from dougong.engine.sampler import Options
from dougong.engine.scheduler import Limits
from dougong.engine.settings import DraftSettings, StateSettings
from dougong.engine.states import States
from dougong.engine.windows import Strategy, Windows
from dougong.errors import InputError
from dougong.kernels.paged import POISON
from dougong.model.initialize import initialize
from dougong.model.sampling import SamplingParams
from dougong.model.transformer import Transformer

MODEL = bytes(32)
EXACT = [Windows(Strategy.FULL), Windows(Strategy.PERIODIC, 256), Windows(Strategy.ZERO)]


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = dougong.load("nano", backend="cpu", dtype="bfloat16", rounding="release")
    assert isinstance(loaded.transformer, Transformer)
    yield loaded.transformer
    torch.set_num_threads(threads)


def ids_of(seed: int, count: int) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(5, 4000) for _ in range(count)]


def job(ids: list[int], tenant: str = "", new: int = 6) -> Job:
    options = Options(sampling=SamplingParams(seed=4))
    return Job(prompt_ids=ids, max_tokens=new, options=options, logprobs=1, tenant=tenant)


def answer(core: Core, wanted: Job) -> Reply:
    request = core.submit(wanted)
    core.run()
    assert request.reply is not None
    return request.reply


def cold(model: Transformer, wanted: Job) -> Reply:
    return answer(Core(model, States(model, 64, windows=Windows(Strategy.ZERO))), wanted)


def same(one: Reply, other: Reply) -> None:
    assert (one.ids, one.logprobs) == (other.ids, other.logprobs)


@pytest.mark.parametrize("windows", EXACT, ids=lambda w: str(w.strategy))
def test_a_known_beginning_changes_no_bit(model: Transformer, windows: Windows) -> None:
    core = Core(model, States(model, 64, windows=windows, poison=True))
    first = ids_of(1, 900)
    answer(core, job(first))
    for known, extra in ((900, 1), (900, 200), (640, 50), (385, 3), (129, 5), (127, 5)):
        wanted = job(first[:known] + ids_of(known, extra))
        reply = answer(core, wanted)
        same(reply, cold(model, wanted))
        if windows.strategy is Strategy.FULL:
            assert reply.cached_tokens >= min(known, len(wanted.prompt_ids) - 1) // 128 * 128


def test_the_answer_s_own_blocks_are_found_by_the_next_turn(model: Transformer) -> None:
    core = Core(model, States(model, 64))
    prompt = ids_of(2, 100)
    reply = answer(core, job(prompt, new=200))
    turn = job(prompt + reply.ids + ids_of(3, 20))
    second = answer(core, turn)
    assert second.cached_tokens == 256
    same(second, cold(model, turn))


def test_a_branch_is_kept_where_it_was_once_seen(model: Transformer) -> None:
    core = Core(model, States(model, 64))
    common = ids_of(4, 512)
    replies = []
    for seed in range(3):
        wanted = job(common + ids_of(10 + seed, 150))
        replies.append(answer(core, wanted))
        same(replies[-1], cold(model, wanted))
    assert replies[1].cached_tokens < 512
    assert replies[2].cached_tokens == 512


def test_another_tenant_gets_nothing_from_the_cache(model: Transformer) -> None:
    core = Core(model, States(model, 64))
    answer(core, job(ids_of(5, 400), "one"))
    assert answer(core, job(ids_of(5, 400), "two")).cached_tokens == 0


def check_blocks(core: Core) -> None:
    """Every block has just the holders that are known, and what is shared is complete."""
    states, holders = core.states, Counter[int]()
    cached = {node.block for node in nodes_of(states.cache)}
    for request in core.scheduler.running:
        blocks = states.of(request).memory.table.blocks
        assert len(set(blocks)) == len(blocks) == request.blocks
        holders.update(blocks)
        own = blocks[max(request.computed, states.of(request).frozen) // 128 :]
        assert not cached.intersection(own), "an unfinished block is in the cache"
    assert all(block in cached for block, count in holders.items() if count > 1)
    holders.update(cached)
    pool = states.pool
    assert [pool.users(block) for block in range(states.total)] == [
        holders[block] for block in range(states.total)
    ]
    for block in range(states.total):
        if pool.users(block) == 0:
            assert bool((pool.bytes(block) == POISON).all())


def nodes_of(cache: PrefixCache) -> list[Node]:
    pending, found = list(cache._roots.values()), []
    while pending:
        children = list(pending.pop().children.values())
        found += children
        pending += children
    return found


@pytest.mark.parametrize("windows", EXACT, ids=lambda w: str(w.strategy))
def test_little_memory_evicts_and_preempts_and_leaks_no_block(
    model: Transformer, windows: Windows
) -> None:
    states = States(model, 6, windows=windows, poison=True)
    core = Core(model, states, Limits(step_tokens=100, running=3), drafts=DraftSettings(lookup=3))
    rng = Random(6)
    common = ids_of(7, 400)
    jobs = []
    for i in range(6):
        prompt = common[: rng.randrange(1, 300)] + ids_of(i, rng.randrange(1, 150))
        jobs.append(job(prompt, new=rng.randint(60, 140)))
    requests = [core.submit(wanted) for wanted in jobs]
    while core.step():
        check_blocks(core)
        if rng.random() < 0.004:
            rng.choice(requests).cancelled = True
    assert core.metrics.preemptions > 0
    for request, wanted in zip(requests, jobs, strict=True):
        assert request.reply is not None
        whole = cold(model, wanted)
        count = len(request.reply.ids)
        assert request.reply.logprobs == whole.logprobs[:count]
        assert request.reply.finish is Finish.CANCELLED or count == len(whole.ids)
    states.cache.clear()
    assert states.pool.num_used == 0


def test_a_model_of_windows_alone_goes_on_as_well(tmp_path: Path) -> None:
    """No layer compresses: blocks are empty, and resume points are all there is."""
    config = replace(tiny_config(), compress_ratios=(0, 0, 0, 0))
    model = initialize(Transformer(config, backend="cpu"), 1).eval()
    first = [i % 300 for i in range(500)]
    wanted = job([*first, 7, 8], new=5)
    for windows in EXACT:
        settings = StateSettings(windows=windows, folder=tmp_path / windows.strategy)
        states = States.open(model, 2048, settings)
        answer(Core(model, states), job(first))
        reply = answer(Core(model, states), wanted)
        states.close()
        again = States.open(model, 2048, settings)
        restored = answer(Core(model, again), wanted)
        again.close()
        for one in (reply, restored):
            same(one, cold(model, wanted))
            assert one.cached_tokens >= (384 if windows.keeps else 3)


@pytest.mark.parametrize("windows", EXACT, ids=lambda w: str(w.strategy))
def test_a_restart_goes_on_from_disk(model: Transformer, windows: Windows, tmp_path: Path) -> None:
    first = ids_of(8, 700)
    store = DiskStore(tmp_path / "state", MODEL, 10**9)
    states = States(model, 64, windows=windows, store=store)
    before = answer(Core(model, states), job(first))
    states.close()
    store.close()
    store = DiskStore(tmp_path / "state", MODEL, 10**9)
    states = States(model, 64, windows=windows, store=store, poison=True)
    wanted = job(first + before.ids + ids_of(9, 60))
    reply = answer(Core(model, states), wanted)
    same(reply, cold(model, wanted))
    if windows.keeps:
        assert reply.cached_tokens == 640
    states.close()


def test_no_resume_point_is_kept_where_a_replay_is_not_exact_yet(
    model: Transformer, tmp_path: Path
) -> None:
    """nano replays 762 tokens: of 1,024 known ones, windows before the last are not exact."""
    first = ids_of(15, 1030)
    known = StateSettings(windows=Windows(Strategy.ZERO), folder=tmp_path)
    states = States.open(model, 4096, known)
    answer(Core(model, states), job(first))
    states.close()
    keeping = replace(known, windows=Windows(Strategy.FULL))
    states = States.open(model, 4096, keeping)
    reply = answer(Core(model, states), job(first + ids_of(16, 5)))
    assert (reply.cached_tokens, states.counts["replays"]) == (1024 - 762, 1)
    for cut in (300, 384, 500, 640, 1024):
        wanted = job(first[:cut] + ids_of(cut, 3))
        same(answer(Core(model, states), wanted), cold(model, wanted))
    assert answer(Core(model, states), job(first)).cached_tokens == 1024  # the end is exact
    states.close()


def test_a_damaged_store_is_a_slower_start(model: Transformer, tmp_path: Path) -> None:
    rng, first = Random(10), ids_of(11, 500)
    store = DiskStore(tmp_path / "state", MODEL, 10**9)
    states = States(model, 64, windows=Windows(Strategy.FULL), store=store)
    answer(Core(model, states), job(first))
    states.close()
    wanted = job(first + ids_of(12, 10))
    expected = cold(model, wanted)
    for _ in range(6):
        files = sorted((tmp_path / "state").glob("??/*"))
        victim = rng.choice(files)
        data = bytearray(victim.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        victim.write_bytes(data)
        states = States(model, 64, windows=Windows(Strategy.FULL), store=store)
        same(answer(Core(model, states), wanted), expected)
        states.close()


def test_a_bounded_replay_is_named_approximate_and_is(model: Transformer) -> None:
    core = Core(model, States(model, 64, windows=Windows(Strategy.BOUNDED)))
    first = ids_of(13, 600)
    answer(core, job(first))
    wanted = job(first + ids_of(14, 5))
    reply = answer(core, wanted)
    assert reply.cached_tokens == 512 - 127
    assert reply.logprobs != cold(model, wanted).logprobs


def test_an_exact_engine_finds_nothing_of_an_approximate_one(
    model: Transformer, tmp_path: Path
) -> None:
    first = ids_of(13, 600)
    for ids in (first, first + ids_of(14, 200)):
        bounded = StateSettings(windows=Windows(Strategy.BOUNDED), folder=tmp_path)
        states = States.open(model, 4096, bounded)
        answer(Core(model, states), job(ids))
        states.close()
    states = States.open(model, 4096, StateSettings(folder=tmp_path))
    assert answer(Core(model, states), job(first)).cached_tokens == 0
    states.close()


def test_odd_periods_are_refused() -> None:
    with pytest.raises(InputError, match="multiple of 128"):
        Windows(Strategy.PERIODIC, 100)
