"""A request as the engine sees it: token ids in, token ids out, exactly one reply at the end.

No torch here: what is drawn and how lives in the sampler, what is remembered in the model's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from dougong.engine.text import TextStream
from dougong.errors import InputError


class Finish(StrEnum):
    """Why a request ended."""

    STOP = "stop"  # a stop id, a stop string, or the end of its grammar
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"  # its sender asked
    DEADLINE = "deadline"  # its time was up; what was written by then is in the reply
    ERROR = "error"  # the reply's `error` says what went wrong


class Phase(StrEnum):
    """Where a request is: it waits, computes its prompt, writes its answer, or has ended."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    ENDED = "ended"


class Guide(Protocol):
    """Which ids may come next in one answer."""

    def allowed(self) -> Any:
        """A mask over the ids for the sampler; None when all of them may come."""

    def take(self, token: int) -> None:
        """Told each id as it is drawn."""


class Grammar(Protocol):
    """What an answer is held to; see grammar.py."""

    def guide(self) -> Guide:
        """A guide for one answer, at its beginning."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a caller asks of the engine.

    `priority`: larger goes first.  `tenant`: whom it is computed for; turns go round tenants, and
    what one tenant cached no other can find.  `deadline_s`: seconds from arrival until its time is
    up.  `prompt_logprobs`: also score each prompt token, with that many alternatives; such a
    request reads nothing from the cache.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    min_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()  # strings that end the answer; they are not part of it
    options: Any = None  # the sampler's: temperature, penalties ...
    grammar: Grammar | None = None
    priority: int = 0
    tenant: str = ""
    deadline_s: float | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise InputError("the prompt has no tokens; give at least one.")
        # 0 scores the prompt and draws nothing
        if self.max_tokens < 0 or not 0 <= self.min_tokens <= max(self.max_tokens, 0):
            raise InputError(
                f"max_tokens is {self.max_tokens} and min_tokens {self.min_tokens}; expected "
                "0 <= min_tokens <= max_tokens."
            )
        if self.grammar is not None and not self.stop_ids:
            raise InputError("an answer with a grammar ends with a stop id; give stop_ids.")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise InputError(f"deadline_s is {self.deadline_s}; a time above 0 seconds is wanted.")


@dataclass(frozen=True)
class Logprob:
    """Log-probability of a token that stands in a sequence, and of the likeliest in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Reply:
    """The one terminal answer to a job; counts are tokens, times seconds from arrival."""

    request_id: int
    finish: Finish
    ids: list[int]
    text: str
    logprobs: list[Logprob]
    prompt_logprobs: list[Logprob]
    prompt_tokens: int
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    first_token_s: float | None
    total_s: float
    error: str | None = None


@dataclass(frozen=True)
class Update:
    """News of a request: ids just drawn and the text that they complete; at the end, the reply."""

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[Logprob, ...] = ()
    reply: Reply | None = None


Listener = Callable[[Update], None]


@dataclass(eq=False)
class Request:
    """One accepted job and how far it is. `ids` is the prompt and all that was written after it.

    `computed`: tokens whose state is held; it falls to 0 when the request is preempted.
    `wanted`: tokens that must be computed before the next one can be drawn.
    """

    id: int
    job: Job
    arrival_s: float
    listener: Listener | None = None
    text: TextStream | None = None  # None where nobody needs the text
    ids: list[int] = field(default_factory=list)
    phase: Phase = Phase.WAITING
    computed: int = 0
    blocks: int = 0  # of its tenant's memory that it holds or has been promised
    cached_tokens: int = 0
    preemptions: int = 0
    drafts: list[int] = field(default_factory=list)  # guesses at the next tokens
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    logprobs: list[Logprob] = field(default_factory=list)
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    first_token_s: float | None = None
    cancelled: bool = False
    reply: Reply | None = None
    guide: Guide | None = None

    def __post_init__(self) -> None:
        self.ids = list(self.job.prompt_ids)
        self.guide = None if self.job.grammar is None else self.job.grammar.guide()

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.job.prompt_ids)

    @property
    def written(self) -> list[int]:
        """The ids drawn so far."""
        return self.ids[self.prompt_tokens :]

    @property
    def wanted(self) -> int:
        """Tokens still to be computed before the next can be drawn."""
        return len(self.ids) - self.computed

    @property
    def most_tokens(self) -> int:
        """Tokens whose state it may come to hold; the last one drawn is never computed."""
        return self.prompt_tokens + max(self.job.max_tokens - 1, 0)

    def deadline(self) -> float:
        """The moment its time is up, on the engine's clock; infinity without one."""
        limit = self.job.deadline_s
        return float("inf") if limit is None else self.arrival_s + limit

    def end(self, finish: Finish, now_s: float, error: str | None = None) -> Reply:
        """Makes the one terminal reply."""
        assert self.reply is None, f"request {self.id} has ended twice"
        self.phase = Phase.ENDED
        self.reply = Reply(
            self.id, finish, self.written, self.text.text if self.text else "",
            self.logprobs, self.prompt_logprobs,
            self.prompt_tokens, self.cached_tokens, self.drafted_tokens, self.accepted_tokens,
            self.first_token_s, now_s - self.arrival_s, error,
        )  # fmt: skip
        return self.reply
