"""Drafts, right or wrong, by lookup, by MTP or by an enemy: tokens and log-probabilities `==`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import pytest
import torch

import dougong
from dougong.engine.core import Core
from dougong.engine.request import Finish, Job, Phase, Reply
from dougong.engine.runner import Result
from dougong.engine.sampler import Options
from dougong.engine.scheduler import Limits
from dougong.engine.settings import MOST_DRAFTS, DraftSettings
from dougong.engine.states import States
from dougong.engine.windows import Strategy, Windows
from dougong.errors import InputError
from dougong.model.sampling import SamplingParams
from dougong.model.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = dougong.load("nano", backend="cpu", dtype="bfloat16", rounding="release")
    assert isinstance(loaded.transformer, Transformer)
    yield loaded.transformer
    torch.set_num_threads(threads)


def jobs_of(seed: int, count: int) -> list[Job]:
    """Prompts that repeat themselves, so that there is something to look up."""
    rng, jobs = Random(seed), []
    for _ in range(count):
        phrase = [rng.randrange(5, 4000) for _ in range(rng.randint(3, 30))]
        prompt = (phrase * 60)[: rng.choice([20, 100, 124, 127, 250, 300])]
        sampling = SamplingParams(temperature=rng.choice([0.0, 0.0, 1.0]), seed=rng.randrange(99))
        options = Options(sampling=sampling, presence_penalty=rng.choice([0.0, 0.0, 1.0]))
        tokens = rng.randint(1, 60)
        jobs.append(Job(prompt_ids=prompt, max_tokens=tokens, options=options, logprobs=2))
    return jobs


def run(core: Core, jobs: Sequence[Job]) -> list[Reply]:
    requests = [core.submit(job) for job in jobs]
    core.run()
    return [request.reply for request in requests if request.reply is not None]


def plain(model: Transformer, jobs: Sequence[Job]) -> list[Reply]:
    return [run(Core(model, States(model, 64)), [job])[0] for job in jobs]


def same(replies: Sequence[Reply], expected: Sequence[Reply]) -> None:
    assert len(replies) == len(expected)
    for one, other in zip(replies, expected, strict=True):
        assert (one.finish, one.ids, one.logprobs) == (other.finish, other.ids, other.logprobs)


CHOICES = [
    DraftSettings(lookup=5, always=True),
    DraftSettings(mtp=1, always=True),
    DraftSettings(lookup=2, mtp=3, always=True),
    DraftSettings(lookup=MOST_DRAFTS, mtp=1),
]


@pytest.mark.parametrize("drafts", CHOICES, ids=str)
def test_drafts_change_no_bit(model: Transformer, drafts: DraftSettings) -> None:
    jobs = jobs_of(1, 4)
    expected = plain(model, jobs)
    core = Core(model, States(model, 40, poison=True), Limits(running=4), drafts=drafts)
    same(run(core, jobs), expected)
    if drafts.always:
        assert 0 < core.metrics.accepted_drafts < core.metrics.drafted_tokens
    tight = States(model, 6, windows=Windows(Strategy.ZERO), poison=True)
    same(run(Core(model, tight, Limits(step_tokens=60, running=3), drafts=drafts), jobs), expected)


def test_an_enemy_s_drafts_change_no_bit(model: Transformer) -> None:
    jobs = [replace(job, max_tokens=140) for job in jobs_of(2, 2)]
    expected, rng = plain(model, jobs), Random(3)
    core = Core(model, States(model, 40, windows=Windows(Strategy.FULL)))
    truth = {i: reply.ids for i, reply in enumerate(expected)}

    def guess(results: Sequence[Result]) -> None:
        """What will come, now and then with one token changed."""
        for result in results:
            request = result.work.request
            if request.phase is Phase.DECODE:
                written = len(request.written)
                drafts = truth.get(request.id, [])[written : written + rng.randint(0, MOST_DRAFTS)]
                if drafts and rng.random() < 0.5:
                    drafts[rng.randrange(len(drafts))] ^= 1
                request.drafts = drafts[: request.job.max_tokens - written - 1]

    core.drafter.settings = CHOICES[0]
    core.drafter.prepare = guess  # type: ignore[method-assign]
    same(run(core, jobs), expected)
    assert core.metrics.accepted_drafts > 100
    # what drafts left in the cache is what their absence would have left
    longer = [
        replace(job, prompt_ids=[*job.prompt_ids, *reply.ids, 9], max_tokens=5)
        for job, reply in zip(jobs, expected, strict=True)
    ]
    again = run(core, longer)
    assert all(reply.cached_tokens >= 128 for reply in again)
    same(again, plain(model, longer))


def test_an_answer_ends_where_it_would_without_drafts(model: Transformer) -> None:
    job = replace(jobs_of(1, 1)[0], max_tokens=60)
    (whole,) = plain(model, [job])
    stopped = replace(job, stop_ids=frozenset({whole.ids[20]}))
    expected = plain(model, [stopped])
    core = Core(model, States(model, 40, poison=True), drafts=CHOICES[0])
    replies = run(core, [stopped])
    assert replies[0].finish is Finish.STOP
    same(replies, expected)
    states = core.states
    states.cache.clear()
    assert states.pool.num_used == 0


def test_replies_say_how_many_drafts_were_right(model: Transformer) -> None:
    job = replace(jobs_of(1, 1)[0], max_tokens=60)
    core = Core(model, States(model, 40), drafts=CHOICES[0])
    (reply,) = run(core, [job])
    assert 0 < reply.accepted_tokens <= reply.drafted_tokens
    assert core.metrics.accepted_drafts == reply.accepted_tokens
    assert core.metrics.drafted_tokens == reply.drafted_tokens
    assert core.metrics.steps == 60 - reply.accepted_tokens


def test_more_drafts_than_can_be_taken_back_are_refused() -> None:
    with pytest.raises(InputError, match="0 to 15 are possible"):
        DraftSettings(lookup=MOST_DRAFTS + 1)
