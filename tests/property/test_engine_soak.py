"""Ten minutes of everything at once (`pytest -m soak`): no growth, and always the same replies."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from random import Random

import pytest
import torch

import dougong
from dougong.engine.engine import Engine
from dougong.engine.request import Job, Reply, Request
from dougong.engine.sampler import Options
from dougong.engine.settings import DraftSettings, StateSettings
from dougong.engine.windows import Strategy, Windows
from dougong.model.sampling import SamplingParams
from dougong.model.transformer import Transformer

SECONDS = 600
WARM_UP_SECONDS = 120  # until allocator, cache and folder have been full once
MOST_GROWTH = 16 * 2**20  # bytes; a leak of a block (23 kB) in every second request would be 30 MB


def memory_bytes() -> int:
    """What the process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def jobs_of(rng: Random, count: int) -> list[Job]:
    """Prompts that share beginnings, so that they are cached, evicted and found again."""
    bases = [[rng.randrange(5, 4000) for _ in range(1500)] for _ in range(4)]
    jobs = []
    for seed in range(count):
        tail = [rng.randrange(5, 4000) for _ in range(rng.randint(1, 20))]
        prompt = rng.choice(bases)[: rng.choice([3, 60, 127, 128, 129, 500, 900, 1500])] + tail
        sampling = SamplingParams(temperature=rng.choice([0.0, 0.0, 1.0]), seed=seed)
        options = Options(sampling=sampling, presence_penalty=rng.choice([0.0, 0.5]))
        scored = rng.choice([None, None, None, 0])
        jobs.append(
            Job(
                prompt_ids=prompt,
                max_tokens=rng.randint(1, 60),
                options=options,
                logprobs=1,
                prompt_logprobs=scored,
                stops=rng.choice([(), ("the",)]),
                priority=rng.choice([0, 0, 1]),
                tenant=rng.choice(["one", "other"]),
            )  # fmt: skip
        )
    return jobs


def said(reply: Reply) -> tuple[object, ...]:
    return reply.finish, reply.ids, reply.text, reply.logprobs, reply.prompt_logprobs


def disturb(engine: Engine, rng: Random, number: int) -> Request:
    """A request of a tenant that never comes again, to be cancelled in the middle."""
    prompt = [rng.randrange(5, 4000) for _ in range(rng.randint(1, 400))]
    return engine.submit(Job(prompt_ids=prompt, max_tokens=400, tenant=f"stranger {number}"))


@pytest.mark.soak
def test_memory_does_not_grow_and_replies_do_not_change(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    loaded = dougong.load("nano", backend="cpu", dtype="bfloat16", rounding="release")
    assert isinstance(loaded.transformer, Transformer)
    rng, first, memory = Random(1), dict[int, tuple[object, ...]](), list[int]()
    jobs = jobs_of(rng, 40)
    states = StateSettings(
        folder=tmp_path, folder_bytes=40 * 2**20, resume_bytes=10 * 2**20,
        windows=Windows(Strategy.PERIODIC, 512),
    )  # fmt: skip
    drafts = DraftSettings(lookup=7, mtp=1)
    start_s, rounds, threads = time.monotonic(), 0, threading.active_count()
    with Engine(
        loaded.transformer, loaded.tokenizer, memory_tokens=4096, states=states, drafts=drafts
    ) as engine:
        while (now_s := time.monotonic() - start_s) < SECONDS:
            strangers = [disturb(engine, rng, 2 * rounds + i) for i in range(2)]
            chosen = rng.sample(range(len(jobs)), 8)
            replies = engine.generate([jobs[i] for i in chosen])
            for stranger in strangers:
                engine.cancel(stranger)
            for i, reply in zip(chosen, replies, strict=True):
                assert said(reply) == first.setdefault(i, said(reply)), (i, now_s)
            rounds += 1
            if now_s > WARM_UP_SECONDS:
                memory.append(memory_bytes())
        metrics, cache = engine.metrics, engine._core.states.cache
    sys.stdout.write(  # pytest -s shows it
        f"{rounds} rounds of 10 requests; {metrics.preemptions} preemptions, "
        f"{metrics.accepted_drafts} drafts accepted, {cache.evicted} blocks evicted; "
        f"memory {memory[0]:,} to {memory[-1]:,} bytes, at most {max(memory):,}\n"
    )
    assert len(first) == len(jobs)
    assert max(memory) - memory[0] <= MOST_GROWTH
    assert threading.active_count() == threads
    cache.clear()
    assert engine._core.states.pool.num_used == 0
