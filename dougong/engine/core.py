"""The engine without threads: jobs in, one step at a time, replies out.

`Engine` runs this in a thread of its own; tests and `verify` run it by hand, where every order of
events can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from dougong.chat.tokenizer import Tokenizer
from dougong.engine.drafter import Drafter
from dougong.engine.estimate import prompt_seconds
from dougong.engine.metrics import Metrics
from dougong.engine.request import Finish, Job, Listener, Phase, Request, Update
from dougong.engine.runner import Result, Runner, Work, options_of
from dougong.engine.scheduler import Limits, Scheduler, Share
from dougong.engine.settings import DraftSettings
from dougong.engine.states import States
from dougong.engine.text import TextStream
from dougong.errors import DougongError, InputError
from dougong.model.transformer import Transformer

Clock = Callable[[], float]


class Core:
    """Requests on one model. Not for several threads at a time."""

    def __init__(
        self,
        model: Transformer,
        states: States,
        limits: Limits | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        drafts: DraftSettings | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.model, self.states, self.tokenizer, self.clock = model, states, tokenizer, clock
        num_ids = None if tokenizer is None else tokenizer.num_ids
        self.runner = Runner(model, num_ids)
        self.drafter = Drafter(model, drafts or DraftSettings(), num_ids)
        self.scheduler = Scheduler(states, limits or Limits())
        self.metrics = Metrics()
        self._numbers = count()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.scheduler.running and not self.scheduler.waiting

    def submit(self, job: Job, listener: Listener | None = None) -> Request:
        """Accepts a job: exactly one reply will follow. Raises InputError if it cannot be run."""
        request = self.prepare(job, listener)
        self.enter(request)
        return request

    def prepare(self, job: Job, listener: Listener | None = None, ahead: int = 0) -> Request:
        """Checks a job and makes a request of it, which `enter` takes in. From any thread.

        `ahead`: requests that were prepared and have not entered yet.

        Raises InputError for what can never be run, and while too many requests are waiting.
        """
        config = self.model.config
        most = len(job.prompt_ids) + max(job.max_tokens - 1, 0)
        if most > config.max_position_embeddings:
            raise InputError(
                f"{len(job.prompt_ids)} prompt tokens and max_tokens {job.max_tokens} exceed the "
                f"model's context of {config.max_position_embeddings} tokens "
                "(max_position_embeddings); lower one of them."
            )
        if job.stops and self.tokenizer is None:
            raise InputError("stop strings need a tokenizer, which this engine was not given.")
        text = None if self.tokenizer is None else TextStream(self.tokenizer, job.stops)
        request = Request(next(self._numbers), job, self.clock(), listener, text)
        self._check_ids(request)
        self.scheduler.check(request, ahead)
        return request

    def enter(self, request: Request) -> None:
        """Queues a prepared request."""
        self.scheduler.submit(request)
        self.metrics.entered(request)

    def step(self) -> bool:
        """Ends what is due, then computes one step; False if there was nothing to compute."""
        for request, finish in self.scheduler.due(self.clock()):
            self._end(request, finish)
        start_s = self.clock()
        plan = self.scheduler.plan()
        planned_s = self.clock()
        for request in plan.admitted:
            request.prompt_logprobs.clear()  # a preempted one scores its prompt again
        if not plan.shares:
            return False
        works = [self._work(share) for share in plan.shares]
        results = self._run(works)
        ran_s = self.clock()
        self.scheduler.account(plan)
        if self.drafter.on:
            self.drafter.learn(results, ran_s - planned_s)
        for result in results:
            self._take(result, ran_s)
        if self.drafter.on:
            self.drafter.prepare([r for r in results if r.work.request.reply is None])
        self.metrics.step(plan, results, start_s, planned_s, ran_s, self.clock())
        return True

    def run(self) -> None:
        """Steps until every request has ended."""
        while not self.idle:
            self.step()

    def estimate(self, prompt_tokens: int) -> float:
        """Seconds that such a prompt would take alone, measured; InputError without the memory."""
        return prompt_seconds(self.states, prompt_tokens, self.scheduler.limits.step_tokens)

    def end_all(self, finish: Finish, error: str | None = None) -> None:
        """Answers every request at once; the engine is stopping."""
        for request in self.scheduler.running + self.scheduler.waiting:
            self._end(request, finish, error)

    def figures(self) -> dict[str, Any]:
        """The metrics as they are now: totals, rates, stage times, queue, caches, bytes by kind."""
        queue = {"waiting": len(self.scheduler.waiting), "running": len(self.scheduler.running)}
        return {**queue, **self.metrics.as_dict(), **self.states.figures()}

    def _check_ids(self, request: Request) -> None:
        """Raises InputError for an id that stands for no text, wherever it is named."""
        job, biased = request.job, options_of(request).logit_bias
        num_ids = self.runner.num_ids or self.model.config.vocab_size
        for name, ids in (("prompt", job.prompt_ids), ("stop", job.stop_ids), ("biased", biased)):
            if (wrong := next((i for i in ids if not 0 <= i < num_ids), None)) is not None:
                raise InputError(
                    f"{name} id {wrong} is not in the vocabulary of {num_ids}; was the text "
                    "tokenized for another model?"
                )

    # -- one step ------------------------------------------------------------------------------

    def _work(self, share: Share) -> Work:
        """A request's next tokens and drafts, or fewer: up to where its state should be kept."""
        request, low = share.request, share.request.computed
        ids = request.ids[low : low + share.tokens] + request.drafts[: share.drafts]
        ids = ids[: self.states.next_cut(request, low + len(ids)) - low]
        drafts = max(len(ids) - share.tokens, 0)
        request.drafts = []
        return Work(request, self.states.of(request), ids, drafts)

    def _run(self, works: Sequence[Work]) -> list[Result]:
        try:
            return self.runner.run(works)
        except DougongError as error:
            return [Result(work, error=error) for work in works]

    def _take(self, result: Result, now_s: float) -> None:
        """Books one request's result; ends it if it is done."""
        request = result.work.request
        if result.error is not None:
            self._end(request, Finish.ERROR, str(result.error))
            return
        request.drafted_tokens += result.work.drafts
        request.accepted_tokens += result.accepted
        request.prompt_logprobs.extend(result.prompt_logprobs)
        if request.first_token_s is None and result.tokens:
            request.first_token_s = now_s - request.arrival_s
        finish, text, first = None, "", len(request.ids)
        for i, token in enumerate(result.tokens):
            request.ids.append(token)
            request.logprobs.extend(result.logprobs[i : i + 1])
            is_stop = token in request.job.stop_ids
            if request.text is not None and not is_stop:
                is_enough = len(request.ids) - request.prompt_tokens >= request.job.min_tokens
                text += request.text.push(token, may_stop=is_enough)
            if (finish := _finish(request, is_stop=is_stop)) is not None:
                break
        taken = len(request.ids) - first  # fewer than were drawn if the answer has ended
        kept = len(result.work.ids) - result.work.drafts + max(taken - 1, 0)
        request.computed += kept
        if taken == len(result.tokens):  # else the state is ahead of what counts
            self.states.reached(request)
        if request.job.max_tokens == 0 and request.wanted == 0:
            finish = Finish.LENGTH
        if taken:
            request.phase = Phase.DECODE
        if len(request.ids) > first and request.listener is not None:
            fresh = tuple(request.ids[first:])
            entries = tuple(request.logprobs[-len(fresh) :]) if request.logprobs else ()
            request.listener(Update(fresh, text, entries))
        if finish is not None:
            self._end(request, finish)

    def _end(self, request: Request, finish: Finish, error: str | None = None) -> None:
        self.scheduler.remove(request)
        self.drafter.forget(request)
        # U+FFFD may be nothing that a grammar knows
        rest = "" if request.text is None else request.text.finish(whole=request.guide is not None)
        now_s = self.clock()
        reply = request.end(finish, now_s, error)
        self.metrics.ended(reply, now_s)
        if request.listener is not None:
            request.listener(Update((), rest, (), reply))


def _finish(request: Request, *, is_stop: bool) -> Finish | None:
    """Whether the token just taken was the last."""
    job, written = request.job, len(request.ids) - request.prompt_tokens
    found = request.text is not None and request.text.stopped_by is not None
    if is_stop or found:
        return Finish.STOP
    return Finish.LENGTH if written >= job.max_tokens else None
