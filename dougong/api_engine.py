"""`dougong.Engine`: many questions at once on one model, each answered as if it were alone.

with dougong.Engine("nano") as engine:
    for answer in engine.generate(["Tell me a story.", "What is 2 + 3 ?"], max_tokens=64):
        print(answer.text)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dougong.api import (
    Answer,
    Model,
    Piece,
    Prompt,
    load,
    serving_backend,
    serving_dtype,
    serving_rounding,
    shown,
)
from dougong.api_question import Question, ended
from dougong.chat import special
from dougong.chat.completion import Event
from dougong.engine.engine import Engine as JobEngine
from dougong.engine.engine import Progress
from dougong.engine.grammar import Grammars
from dougong.engine.metrics import Metrics
from dougong.engine.request import Job, Update
from dougong.engine.scheduler import Limits
from dougong.engine.settings import DraftSettings, StateSettings
from dougong.errors import InputError
from dougong.model.transformer import Transformer


class Engine:
    """A model that answers many questions at once. Every method may be called from any thread.

    The tokens and log-probabilities of an answer depend on its question alone: not on what else is
    being answered, on what is cached, or on when it was asked.
    """

    def __init__(
        self,
        model: str | Path | Model,
        *,
        backend: str | None = None,
        dtype: str | None = None,
        rounding: str | None = None,
        fallback: bool = True,
        memory: int | None = None,
        memory_tokens: int = 65_536,
        limits: Limits | None = None,
        states: StateSettings | None = None,
        drafts: DraftSettings | None = None,
        trace: str | Path | None = None,
    ) -> None:
        """Loads the model and starts the engine's thread.

        Args:
            model: as for `dougong.load`, or what that returned, which no one else may use then.
            backend, dtype, rounding: None is what `dougong generate` takes for this model.
            memory: as for `dougong.load`.
            memory_tokens: how many tokens of state are kept, running requests and cache together.
            limits: the most requests at once and waiting, and the most tokens in a step.
            states: where states are kept: windows, disk, a mapped file.
            drafts: how far ahead tokens may be guessed; None: by lookup, where that pays.
            trace: a file for every step and request, which a browser's trace viewer shows.
        Raises: CheckpointError, ConfigError, BackendError; InputError for a V3 model, or a file
            that cannot be written.
        """
        if not isinstance(model, Model):
            backend = backend or serving_backend(model, dtype)
            model = load(
                model,
                backend=backend,
                dtype=dtype or serving_dtype(backend),
                rounding=rounding or serving_rounding(model),
                fallback=fallback,
                memory=memory,
            )
        if not isinstance(model.transformer, Transformer):
            raise InputError("the engine runs V4 models; use dougong.load for a V3 model.")
        self.model, self.transformer = model, model.transformer
        self.memory_tokens = memory_tokens
        self._grammars = Grammars(model.tokenizer)
        self.jobs = JobEngine(
            model.transformer,
            model.tokenizer,
            memory_tokens=memory_tokens,
            limits=limits,
            states=states,
            drafts=drafts,
            trace=None if trace is None else Path(trace),
        )

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
        return self.jobs.metrics

    def figures(self) -> dict[str, Any]:
        """The metrics as they are now, and the queue, caches and bytes by kind."""
        return self.jobs.figures()

    def estimate(self, prompt_tokens: int) -> float:
        """Seconds that a prompt of so many tokens will take, measured on steps of a few places.

        Raises: InputError if the engine has something to do, or too little memory.
        """
        return self.jobs.estimate(prompt_tokens)

    def generate(
        self, prompts: Iterable[Prompt], *, progress: Progress | None = None, **options: Any
    ) -> list[Answer]:
        """The answers to all prompts, in their order (with `n`, each prompt's n one after another).

        Args:   prompts: a list of user messages or of conversations; progress: told twice a second
            how many of all prompt tokens are computed; options: those of `Question`.
        Raises: InputError, before anything is computed, if one of them cannot be asked.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if any(isinstance(prompt, dict) for prompt in prompts):
            raise InputError("generate takes a list of prompts; for one conversation write [it].")
        questions = [Question(prompt=prompt, **options) for prompt in prompts]
        asked = [(question, job) for question in questions for job in self.ask(question)]
        replies = self.jobs.generate([job for _, job in asked], progress)
        return [q.answer(reply) for (q, _), reply in zip(asked, replies, strict=True)]

    def stream(self, prompt: Prompt, **options: Any) -> AnswerStream:
        """One answer piece by piece: `async for piece in engine.stream(...)`.

        Its `answer` is whole at the end; leaving early (`aclose`) cancels it.
        Raises: InputError if it has more than one answer.
        """
        question = Question(prompt=prompt, **options)
        if question.n != 1:
            raise InputError(f"n is {question.n}; a stream has one answer, so start {question.n}.")
        return AnswerStream(self, question)

    def score(self, text: str | Sequence[int]) -> list[float]:
        """Log-probabilities of tokens 1 .. S - 1 of a text or of ids, each after those before it.

        A text begins with the begin-of-sentence token, so all of its own tokens are scored.
        """
        if isinstance(text, str):
            text = self.model.encode(special.BOS + text, raw=True)
        return self.jobs.score(text)

    def close(self) -> None:
        """Cancels what is running and ends the engine's thread."""
        self.jobs.close()
        self._grammars.close()

    # -- for the server and the batch runner ---------------------------------------------------

    def ask(self, question: Question) -> list[Job]:
        """The jobs of a question; may take a while where a grammar has to be compiled.

        Raises: InputError if it cannot be asked or does not fit.
        """
        spec = question.grammar()
        if spec is None:
            return question.jobs(self.model, self.memory_tokens)
        grammar = self._grammars.compile(spec, thinking=question.thinking)
        return question.jobs(self.model, self.memory_tokens, grammar)

    async def follow(
        self, question: Question, job: Job
    ) -> AsyncGenerator[tuple[Update, list[Event]]]:
        """The updates of one of its jobs, and what each adds to the answer's parts."""
        parser = question.parser()
        updates = self.jobs.stream(job)
        try:
            async for update in updates:
                events = [] if parser is None else parser.push(update.text)
                if parser is not None and update.reply is not None:
                    events += parser.finish(ended(update.reply))
                yield update, events
        finally:
            await updates.aclose()


class AnswerStream(AsyncIterator[Piece]):
    """An answer while it is written; `answer` is whole at the end and None before.

    It starts with the first piece that is asked for, which raises InputError if it cannot be asked.
    """

    def __init__(self, engine: Engine, question: Question) -> None:
        self.answer: Answer | None = None
        self._engine, self._question = engine, question
        self._updates: AsyncGenerator[tuple[Update, list[Event]]] | None = None
        self._pieces: list[Piece] = []

    async def __anext__(self) -> Piece:
        if self._updates is None:
            (job,) = await asyncio.to_thread(self._engine.ask, self._question)
            self._updates = self._engine.follow(self._question, job)
        while not self._pieces:
            update, events = await anext(self._updates)
            raw = self._question.raw and update.text
            self._pieces = [Piece("content", update.text)] if raw else list(shown(events))
            if update.reply is not None:
                self.answer = self._question.answer(update.reply)
        return self._pieces.pop(0)

    async def aclose(self) -> None:
        """Cancels what is not yet written."""
        if self._updates is not None:
            await self._updates.aclose()
