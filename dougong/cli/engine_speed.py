"""What `dougong bench engine` measures: steps, many requests, second turns, drafts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from dougong.engine.core import Core
    from dougong.engine.request import Job, Reply
    from dougong.engine.settings import DraftSettings
    from dougong.engine.trace import Trace
    from dougong.model.transformer import Transformer

Row = dict[str, Any]

STEP_BATCHES, STEP_CONTEXT, STEP_WARM_UP = (1, 32), 64, 5
ALLOWED_SHARE, ALLOWED_S = 0.05, 100e-6  # of a bare step, and in any case
SHORTEST, LONGEST = 50, 4000  # prompt tokens of the many requests
TURN_TOKENS, ANSWER_TOKENS = 64, 32  # of a conversation's second question and first answer
DRAFT_TOKENS, DRAFT_RUNS = 256, 3
LONG_STATE_BYTES = 64 * 2**20  # of a long prompt in memory; what is more is mapped
PHRASES, PHRASE_TOKENS = 40, 24  # the repetitive prompt


class Bench:
    """A model and the random ids that it is timed on; `no_text`: the first id without text."""

    def __init__(self, model: Transformer, num_ids: int | None, trace: Trace | None = None) -> None:
        self.model, self.trace = model, trace
        self.num_ids = num_ids or model.config.vocab_size

    def ids(self, seed: int, count: int) -> list[int]:
        """Random ids."""
        rng = Random(seed)
        return [rng.randrange(2, self.num_ids) for _ in range(count)]

    def core(self, tokens: int, drafts: DraftSettings | None = None, **settings: Any) -> Core:
        """A fresh engine with an empty cache and memory for `tokens`; no drafts unless given."""
        from dougong.engine.core import Core
        from dougong.engine.settings import StateSettings
        from dougong.engine.states import States

        states = States.open(self.model, tokens, StateSettings(**settings))
        core = Core(self.model, states, drafts=drafts)
        core.metrics.trace = self.trace
        return core

    def steps(self, steps: int) -> list[Row]:
        """Engine steps beside bare model steps, in turn: the median of their differences."""
        return [self._steps(batch, steps) for batch in STEP_BATCHES]

    def _steps(self, batch: int, steps: int) -> Row:
        import torch

        prompts = [self.ids(i, STEP_CONTEXT) for i in range(batch)]
        length, total = STEP_CONTEXT, STEP_WARM_UP + 2 * steps
        core, states = self.core(batch * 1024), [self.model.new_state() for _ in prompts]
        requests = [core.submit(job(prompt, total + 10)) for prompt in prompts]
        while any(request.computed < length for request in requests):
            core.step()
        with torch.inference_mode():
            for prompt, state in zip(prompts, states, strict=True):
                self.model(torch.tensor(prompt), [length], [state])

        def bare(next_ids: Tensor) -> None:
            with torch.inference_mode():
                self.model.logits(self.model(next_ids, [1] * batch, states))

        bare_s, engine_s = [], []
        for step in range(total):
            next_ids = torch.tensor([request.ids[-1] for request in requests])
            if step % 2:  # who comes second finds its experts' weights in the cache
                engine_s.append(seconds(core.step))
            bare_s.append(seconds(partial(bare, next_ids)))
            if step % 2 == 0:
                engine_s.append(seconds(core.step))
        pairs = list(zip(bare_s, engine_s, strict=True))[STEP_WARM_UP:]
        added = [both - one for one, both in pairs]
        bare_step = median(one for one, _ in pairs)
        return {
            "batch": batch, "bare_s": bare_step, "engine_s": median(both for _, both in pairs),
            "overhead_s": (median(added[::2]) + median(added[1::2])) / 2,
            "allowed_s": max(ALLOWED_SHARE * bare_step, ALLOWED_S),
        }  # fmt: skip

    def requests(self, count: int, new_tokens: int) -> Row:
        """Many requests of unequal length, all there at once: tokens written a second."""
        lengths = prompt_lengths(count)
        tokens = sum(lengths) + count * (new_tokens + 128)
        core = self.core(tokens)
        self._warm_up()
        start = time.perf_counter()
        for i, length in enumerate(lengths):
            core.submit(job(self.ids(i, length), new_tokens))
        core.run()
        seconds = time.perf_counter() - start
        return {
            "requests": count, "prompt_tokens": sum(lengths), "new_tokens": count * new_tokens,
            "seconds": seconds, "tokens_per_s": count * new_tokens / seconds,
            "steps": core.metrics.steps, "stage_s": dict(core.metrics.stage_s),
        }  # fmt: skip

    def turns(self, conversation: int, folder: Path) -> Row:
        """First tokens of a conversation: cold, its second turn from memory, and from disk."""
        prompt = self.ids(1, conversation)
        room = conversation + ANSWER_TOKENS + TURN_TOKENS + 1024
        self._warm_up()
        core = self.core(2 * room, folder=folder)
        cold = answer(core, job(prompt, ANSWER_TOKENS))
        warm = answer(core, job(prompt + cold.ids + self.ids(2, TURN_TOKENS), 1))
        core.states.close()
        core = self.core(2 * room, folder=folder)  # as after a restart
        other = self.ids(3, TURN_TOKENS)  # the first question's blocks lie on the disk by now
        from_disk = answer(core, job(prompt + cold.ids + other, 1))
        core.states.close()
        cold_s, memory_s, disk_s = (first_token_s(reply) for reply in (cold, warm, from_disk))
        return {
            "conversation": conversation, "cold_s": cold_s, "memory_s": memory_s, "disk_s": disk_s,
            "memory_of_cold": memory_s / cold_s, "disk_of_cold": disk_s / cold_s,
            "cached_tokens": [warm.cached_tokens, from_disk.cached_tokens],
        }  # fmt: skip

    def long(self, tokens: int, folder: Path) -> Row:
        """A prompt of so many tokens in states that are mapped: its time beside the estimate."""
        from dougong.engine.estimate import prompt_seconds
        from dougong.engine.scheduler import blocks_for

        self._warm_up()
        before = peak_bytes()
        core = self.core(
            tokens + 256, memory_bytes=LONG_STATE_BYTES, resume_bytes=LONG_STATE_BYTES,
            scratch=folder,
        )  # fmt: skip
        estimate_s = prompt_seconds(core.states, tokens, core.scheduler.limits.step_tokens)
        reply = answer(core, job(self.ids(1, tokens), 1))
        return {
            "tokens": tokens, "estimate_s": estimate_s, "seconds": first_token_s(reply),
            "of_estimate": first_token_s(reply) / estimate_s,
            "state_bytes": blocks_for(tokens) * core.states.pool.block_bytes,
            "grown_bytes": peak_bytes() - before,
        }  # fmt: skip

    def drafts(self) -> list[Row]:
        """The default drafts beside none, in turn: the best of a few runs of each."""
        phrase = self.ids(3, PHRASE_TOKENS)
        repetitive = job(phrase * PHRASES, DRAFT_TOKENS, bias=dict.fromkeys(phrase, 30.0))
        other = job(self.ids(4, PHRASES * PHRASE_TOKENS), DRAFT_TOKENS, temperature=1.0)
        return [self._drafts("repetitive", repetitive), self._drafts("not repetitive", other)]

    def _drafts(self, text: str, asked: Job) -> Row:
        from dougong.engine.settings import DEFAULT_LOOKUP, DraftSettings

        times: dict[int, list[float]] = {0: [], DEFAULT_LOOKUP: []}
        for _ in range(DRAFT_RUNS):
            for lookup, seconds in times.items():
                core = self.core(8192, DraftSettings(lookup=lookup))
                reply = answer(core, asked)
                seconds.append(reply.total_s - first_token_s(reply))
        plain_s, drafted_s = (min(seconds) for seconds in times.values())
        return {
            "text": text, "plain_tokens_per_s": DRAFT_TOKENS / plain_s,
            "drafted_tokens_per_s": DRAFT_TOKENS / drafted_s, "times": plain_s / drafted_s,
            "drafted": reply.drafted_tokens, "accepted": reply.accepted_tokens,
        }  # fmt: skip

    def _warm_up(self) -> None:
        """Touches every weight: pages, buffers, programs of every size."""
        core = self.core(8192)
        for i in range(4):
            core.submit(job(self.ids(i, 600), 4))
        core.run()


def seconds(call: Callable[[], object]) -> float:
    """How long `call` takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_bytes() -> int:
    """The most memory that this process has held so far, mapped files included."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def prompt_lengths(count: int) -> list[int]:
    """Lengths from 50 to 4,000 in a geometric row, in an order that mixes short and long."""
    ratio = LONGEST / SHORTEST
    row = [round(SHORTEST * ratio ** (i / max(count - 1, 1))) for i in range(count)]
    return [row[i * 29 % count] for i in range(count)] if count % 29 else row


def job(
    prompt: Sequence[int],
    new_tokens: int,
    *,
    temperature: float = 0.0,
    bias: dict[int, float] | None = None,
) -> Job:
    """A request that writes exactly `new_tokens`."""
    from dougong.engine.request import Job
    from dougong.engine.sampler import Options
    from dougong.model.sampling import SamplingParams

    sampling = SamplingParams(temperature=temperature)
    options = Options(sampling=sampling, logit_bias=bias or {})
    return Job(prompt_ids=prompt, max_tokens=new_tokens, options=options)


def answer(core: Core, asked: Job) -> Reply:
    """The reply to a request that is alone."""
    request = core.submit(asked)
    core.run()
    assert request.reply is not None
    assert request.reply.error is None
    return request.reply


def first_token_s(reply: Reply) -> float:
    """Seconds from arrival to the first token."""
    assert reply.first_token_s is not None
    return reply.first_token_s
