"""Prefix cache, disk, preemption and restarts of the states: the bits of a cold start, `==`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch

import dougong
from dougong.engine.core import Core
from dougong.engine.disk_store import DiskStore
from dougong.engine.request import Job, Reply
from dougong.engine.sampler import Options
from dougong.engine.scheduler import Limits
from dougong.engine.states import States
from dougong.engine.windows import Strategy, Windows
from dougong.errors import InputError
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


def test_little_memory_evicts_and_preempts_and_leaks_no_block(model: Transformer) -> None:
    states = States(model, 9, windows=Windows(Strategy.PERIODIC, 256), poison=True)
    core = Core(model, states, Limits(step_tokens=100, running=3))
    rng = Random(6)
    common = ids_of(7, 400)
    jobs = [
        job(
            common[: rng.randrange(1, 400)] + ids_of(i, rng.randrange(1, 200)),
            new=rng.randint(1, 140),
        )
        for i in range(8)
    ]
    requests = [core.submit(wanted) for wanted in jobs]
    core.run()
    assert core.metrics.preemptions > 0
    for request, wanted in zip(requests, jobs, strict=True):
        assert request.reply is not None
        same(request.reply, cold(model, wanted))
    states.cache.clear()
    assert states.pool.num_used == 0


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


def test_odd_periods_are_refused() -> None:
    with pytest.raises(InputError, match="multiple of 128"):
        Windows(Strategy.PERIODIC, 100)
