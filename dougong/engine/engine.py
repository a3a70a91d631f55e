"""`Engine`: the core in a thread of its own, for callers in other threads and event loops.

It takes jobs, which are ids; `dougong.Engine` asks it in words.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dougong.chat.tokenizer import Tokenizer
from dougong.engine.core import Core
from dougong.engine.metrics import Metrics
from dougong.engine.request import Finish, Job, Listener, Reply, Request, Update
from dougong.engine.scheduler import Limits
from dougong.engine.settings import DEFAULT_LOOKUP, DraftSettings, StateSettings
from dougong.engine.states import States
from dougong.engine.trace import Trace
from dougong.errors import DougongError, InputError
from dougong.model.transformer import Transformer

Progress = Callable[[int, int], None]
PROGRESS_SECONDS = 0.5  # between two reports


class EngineError(DougongError):
    """The engine has stopped, by its owner or by a fault; what was accepted has been answered."""


class Engine:
    """Many requests at once on one model. Every method may be called from any thread.

    Args:
        memory_tokens: how many tokens of state are kept, running requests and cache together.
        limits: the most requests at once and waiting, and the most tokens in a step.
        states: where states are kept: windows, disk, a mapped file.
        drafts: how far ahead tokens may be guessed; None: by lookup, where that pays.
        trace: a file for every step and request, which a browser's trace viewer shows.
    Raises: InputError for a folder or file that cannot be used, or MTP drafts of a model without a
        block.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None = None,
        *,
        memory_tokens: int = 65_536,
        limits: Limits | None = None,
        states: StateSettings | None = None,
        drafts: DraftSettings | None = None,
        trace: Path | None = None,
    ) -> None:
        recorder = None if trace is None else Trace(trace)
        kept = States.open(model, memory_tokens, states or StateSettings())
        drafts = drafts or DraftSettings(lookup=DEFAULT_LOOKUP)
        self._core = Core(model, kept, limits, tokenizer=tokenizer, drafts=drafts)
        self._core.metrics.trace = recorder
        self._inbox: deque[Request] = deque()
        self._news = threading.Condition()
        self._closing = False
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._loop, name="dougong-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def metrics(self) -> Metrics:
        """What the engine has done so far."""
        return self._core.metrics

    def figures(self) -> dict[str, Any]:
        """The metrics as they are now: totals, rates, stage times, queue, caches, bytes by kind."""
        return self._core.figures()

    @property
    def fault(self) -> str | None:
        """What stopped the engine, if it was not its owner."""
        return self._fault

    def submit(self, job: Job, listener: Listener | None = None) -> Request:
        """Accepts a job; `listener` hears every update, the last one with the reply.

        It is called in the engine's thread and must return at once.
        Raises: InputError if the job cannot be run, EngineError if the engine has stopped.
        """
        request = self._core.prepare(job, listener, len(self._inbox))
        with self._news:
            if self._closing or self._fault is not None:
                raise EngineError(self._fault or "the engine is closed; make another one.")
            self._inbox.append(request)
            self._news.notify()
        return request

    def cancel(self, request: Request) -> None:
        """Ends a request at the next step; its reply holds what was written. Never too late."""
        request.cancelled = True
        with self._news:
            self._news.notify()

    def generate(self, jobs: Iterable[Job], progress: Progress | None = None) -> list[Reply]:
        """The replies to all jobs, in their order.

        `progress`: told twice a second how many of all prompt tokens are computed.
        """
        todo = list(jobs)
        waiting, requests = [_Waiter() for _ in todo], []
        try:
            for job, waiter in zip(todo, waiting, strict=True):
                requests.append(self.submit(job, waiter))
            if progress is not None:
                total = sum(request.prompt_tokens for request in requests)
                while not all(waiter.done(PROGRESS_SECONDS) for waiter in waiting):
                    progress(sum(map(_computed, requests)), total)
                progress(total, total)
            return [waiter.wait() for waiter in waiting]
        except BaseException:
            for request in requests:
                self.cancel(request)
            raise

    async def stream(self, job: Job) -> AsyncGenerator[Update]:
        """The updates of a job as they come, the last with its reply; leaving early cancels it."""
        loop, updates = asyncio.get_running_loop(), asyncio.Queue[Update]()

        def hear(update: Update) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, update)

        request = self.submit(job, hear)
        try:
            while True:
                update = await updates.get()
                yield update
                if update.reply is not None:
                    return
        finally:
            if request.reply is None:
                self.cancel(request)

    def score(self, ids: Sequence[int]) -> list[float]:
        """Log-probabilities of ids 1 .. S - 1 of a sequence, each after those before it."""
        (reply,) = self.generate([Job(prompt_ids=ids, max_tokens=0, prompt_logprobs=0)])
        if reply.error is not None:
            raise InputError(reply.error)
        return [entry.logprob for entry in reply.prompt_logprobs]

    def estimate(self, prompt_tokens: int) -> float:
        """Seconds that a prompt of so many tokens will take, measured on steps of a few places.

        How far a request is by then: its `computed` of its `prompt_tokens`.
        Raises: InputError if the engine has something to do, or too little memory.
        """
        with self._news:  # whoever brings work now waits
            if self._inbox or not self._core.idle:
                raise InputError("an estimate is measured while the engine has nothing to do.")
            return self._core.estimate(prompt_tokens)

    def close(self) -> None:
        """Cancels what is running and ends the thread; every request still gets its reply."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # -- the engine's thread -------------------------------------------------------------------

    def _loop(self) -> None:
        try:
            while self._take_in():
                self._core.step()
        except Exception as error:  # whatever it was, nobody may be left waiting
            self._fault = f"the engine has stopped: {type(error).__name__}: {error}"
        finally:
            self._end_all()

    def _take_in(self) -> bool:
        """Waits for something to do; False when the engine is closing."""
        with self._news:
            while self._core.idle and not self._inbox and not self._closing:
                self._news.wait()
            while self._inbox:
                self._core.enter(self._inbox.popleft())
            return not self._closing

    def _end_all(self) -> None:
        with self._news:
            self._closing = True
            late = list(self._inbox)
            self._inbox.clear()
        finish = Finish.CANCELLED if self._fault is None else Finish.ERROR
        for request in late:
            self._core.enter(request)
        self._core.end_all(finish, self._fault)
        self._core.states.close()
        if self.metrics.trace is not None:
            self.metrics.trace.close()


class _Waiter:
    """A listener that lets another thread wait for the reply."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._reply: Reply | None = None

    def __call__(self, update: Update) -> None:
        if update.reply is not None:
            self._reply = update.reply
            self._done.set()

    def done(self, seconds: float) -> bool:
        """Whether the reply is there within so many seconds."""
        return self._done.wait(seconds)

    def wait(self) -> Reply:
        self._done.wait()
        assert self._reply is not None
        return self._reply


def _computed(request: Request) -> int:
    """Prompt tokens that are computed; preemption may take some back."""
    ended = request.reply is not None
    return request.prompt_tokens if ended else min(request.computed, request.prompt_tokens)
