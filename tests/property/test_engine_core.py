"""Requests together give the tokens and log-probabilities that each gives alone: `==`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
import torch

import dougong
from dougong.engine.core import Core
from dougong.engine.request import Finish, Job, Reply, Request, Update
from dougong.engine.sampler import Options
from dougong.engine.scheduler import Limits
from dougong.engine.states import States
from dougong.errors import InputError
from dougong.model.sampling import SamplingParams
from dougong.model.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = dougong.load("nano", backend="cpu", rounding="release", fallback=False)
    assert isinstance(loaded.transformer, Transformer)
    yield loaded.transformer
    torch.set_num_threads(threads)


def random_job(rng: Random) -> Job:
    options = Options(
        sampling=SamplingParams(
            temperature=rng.choice([0.0, 1.0, 1.5]),
            top_p=rng.choice([0.8, 1.0]),
            top_k=rng.choice([0, 20]),
            seed=rng.randrange(1000),
        ),
        presence_penalty=rng.choice([0.0, 1.0]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        logit_bias=rng.choice([{}, {7: 5.0, 9: -5.0}]),
    )
    prompt = [rng.randrange(5, 4000) for _ in range(rng.choice([1, 3, 127, 128, 129, 260]))]
    return Job(
        prompt_ids=prompt,
        max_tokens=rng.randint(1, 12),
        options=options,
        logprobs=rng.choice([None, 2]),
        prompt_logprobs=rng.choice([None, None, 1]),
    )


def answer(core: Core, job: Job) -> Reply:
    request = core.submit(job)
    core.run()
    assert request.reply is not None
    return request.reply


def same(one: Reply, other: Reply) -> None:
    assert one.finish == other.finish
    assert one.ids == other.ids
    assert one.logprobs == other.logprobs
    assert one.prompt_logprobs == other.prompt_logprobs


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_chunks_and_preemption_change_no_bit(model: Transformer, seed: int) -> None:
    rng = Random(seed)
    jobs = [random_job(rng) for _ in range(10)]
    alone = [answer(Core(model, States(model, 100)), job) for job in jobs]
    limits = Limits(step_tokens=rng.choice([7, 50, 200]), running=rng.choice([2, 5]))
    core = Core(model, States(model, 5), limits)
    requests: list[Request] = []
    while len(requests) < len(jobs) or not core.idle:
        if len(requests) < len(jobs) and rng.random() < 0.5:
            requests.append(core.submit(jobs[len(requests)]))
        core.step()
    for request, reply in zip(requests, alone, strict=True):
        assert request.reply is not None
        same(request.reply, reply)


def test_memory_pressure_preempts_and_the_answer_stays(model: Transformer) -> None:
    rng = Random(7)
    jobs = [
        replace(random_job(rng), prompt_ids=[5] * 120, max_tokens=30, prompt_logprobs=1)
        for _ in range(3)
    ]
    alone = [answer(Core(model, States(model, 100)), job) for job in jobs]
    core = Core(model, States(model, 4))
    requests = [core.submit(job) for job in jobs]
    core.run()
    assert core.metrics.preemptions > 0
    for request, reply in zip(requests, alone, strict=True):
        assert request.reply is not None
        same(request.reply, reply)


def test_cancelled_and_late_requests_get_their_one_reply(model: Transformer) -> None:
    now = [0.0]
    core = Core(model, States(model, 100), clock=lambda: now[0])
    replies: list[Reply] = []

    def listen(update: Update) -> None:
        if update.reply is not None:
            replies.append(update.reply)

    job = Job(prompt_ids=[5, 6, 7], max_tokens=50, options=Options(sampling=SamplingParams(seed=1)))
    late = Job(prompt_ids=[5, 6, 7], max_tokens=50, deadline_s=3.0)
    whole = answer(Core(model, States(model, 100)), job)
    cancelled, expired = core.submit(job, listen), core.submit(late, listen)
    for _ in range(5):
        core.step()
        now[0] += 1.0
    cancelled.cancelled = True
    core.run()
    assert [reply.finish for reply in replies] == [Finish.DEADLINE, Finish.CANCELLED]
    assert cancelled.reply is not None
    assert expired.reply is not None
    assert 0 < len(cancelled.reply.ids) < 50
    assert cancelled.reply.ids == whole.ids[: len(cancelled.reply.ids)]
    assert core.states.available() == 100


def test_stops_and_least_lengths(model: Transformer) -> None:
    plain = Job(
        prompt_ids=[5, 6, 7], max_tokens=20, options=Options(sampling=SamplingParams(seed=3))
    )
    ids = answer(Core(model, States(model, 10)), plain).ids
    stop = frozenset({ids[4]})
    first = ids.index(ids[4])
    stopped = Job(prompt_ids=[5, 6, 7], max_tokens=20, stop_ids=stop, options=plain.options)
    reply = answer(Core(model, States(model, 10)), stopped)
    assert (reply.finish, reply.ids) == (Finish.STOP, ids[: first + 1])
    longer = Job(
        prompt_ids=[5, 6, 7], max_tokens=20, min_tokens=8, stop_ids=stop, options=plain.options
    )
    reply = answer(Core(model, States(model, 10)), longer)
    assert len(reply.ids) >= 8
    assert ids[4] not in reply.ids[:8]


def test_a_scored_prompt_needs_no_answer(model: Transformer) -> None:
    ids = [5, 6, 7, 8, 9]
    reply = answer(
        Core(model, States(model, 10)), Job(prompt_ids=ids, max_tokens=0, prompt_logprobs=0)
    )
    logits_TV = model.logits(model(torch.tensor(ids), [5]))
    expected = torch.log_softmax(logits_TV[:4].float(), -1)[range(4), ids[1:]]
    assert [entry.logprob for entry in reply.prompt_logprobs] == expected.tolist()
    assert reply.ids == []


def test_what_cannot_be_run_is_refused_at_once(model: Transformer) -> None:
    core = Core(model, States(model, 2))
    with pytest.raises(InputError, match="give the engine more memory"):
        core.submit(Job(prompt_ids=[5] * 300, max_tokens=1))
    for job, said in (
        (Job(prompt_ids=[5, 10**6], max_tokens=1), "prompt id 1000000 is not in the vocabulary"),
        (Job(prompt_ids=[5], max_tokens=1, stop_ids=frozenset({-1})), "stop id -1 is not"),
        (Job(prompt_ids=[5], max_tokens=1, options=Options(logit_bias={4096: 1.0})), "biased id"),
    ):
        with pytest.raises(InputError, match=said):
            core.submit(job)
    with pytest.raises(InputError, match="max_position_embeddings"):
        core.submit(Job(prompt_ids=[5], max_tokens=2**21))
    assert core.idle
