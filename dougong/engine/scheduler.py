"""Decides which tokens the next step computes. Pure bookkeeping: no torch, no threads, no clock.

A step takes one token (and drafts) from every request that is writing, and spends what is left
of its token budget on prompts, shared out so that a short one need not wait for a long one.
Whatever it decides changes only when a request's tokens are computed, never what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from dougong.engine.request import Finish, Phase, Request
from dougong.errors import InputError

BLOCK_TOKENS = 128  # the state's unit of memory: one HCA entry, 32 CSA entries a layer


class QueueFullError(InputError):
    """As many requests are waiting as the engine takes; the same one may be sent again later."""


def blocks_for(tokens: int) -> int:
    """Blocks that hold the state of so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


class Memory(Protocol):
    """Who owns the states. Counts are blocks."""

    total: int

    def available(self) -> int:
        """Blocks that nobody holds, those included that only the prefix cache keeps."""

    def attach(self, request: Request) -> tuple[int, int]:
        """Gives the request a state, which begins with what the cache has of it.

        Returns how many of its first tokens need not be computed, and the blocks it holds now.
        """

    def reserve(self, request: Request, blocks: int) -> None:
        """Makes sure that it can grow by `blocks`, at the cache's expense if need be."""

    def release(self, request: Request) -> None:
        """Takes the state back; what it computed may stay in the cache."""


@dataclass(frozen=True)
class Share:
    """One request's part of a step: its next `tokens`, and room for `drafts` behind them."""

    request: Request
    tokens: int
    drafts: int = 0


@dataclass
class Plan:
    """A step: shares in order, and what had to give way for it."""

    shares: list[Share] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens to compute, drafts included."""
        return sum(share.tokens + share.drafts for share in self.shares)


@dataclass(frozen=True)
class Limits:
    """`step_tokens`: a step's budget.  `running`, `waiting`: the most requests of each kind."""

    step_tokens: int = 1024
    running: int = 64
    waiting: int = 4096

    def __post_init__(self) -> None:
        if self.running < 1 or self.waiting < 1 or self.step_tokens < self.running:
            raise InputError(
                f"limits: running {self.running}, waiting {self.waiting}, step_tokens "
                f"{self.step_tokens}; at least one of each, and a step must hold a token of every "
                "running request."
            )


class Scheduler:
    """Continuous batching with priorities, fair turns between tenants, and preemption."""

    def __init__(self, memory: Memory, limits: Limits) -> None:
        self.memory, self.limits = memory, limits
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self._served: dict[str, int] = {}  # tokens computed, of tenants that have requests here

    def check(self, request: Request, ahead: int = 0) -> None:
        """Raises InputError if the request can never run, or while the queue is full.

        `ahead`: requests that were let through and will be submitted before this one.
        """
        needed = blocks_for(request.most_tokens)
        if needed > self.memory.total:
            raise InputError(
                f"the request may need the state of {request.most_tokens} tokens and this engine's "
                f"memory holds {self.memory.total * BLOCK_TOKENS}; shorten the prompt, lower "
                "max_tokens or give the engine more memory."
            )
        waiting = len(self.waiting) + ahead
        if waiting >= self.limits.waiting:
            raise QueueFullError(
                f"{waiting} requests are waiting already, the most that this engine "
                "takes; send it again later."
            )

    def submit(self, request: Request) -> None:
        """Queues a request that `check` let through."""
        self._enter(request.job.tenant)
        self.waiting.append(request)

    def due(self, now_s: float) -> list[tuple[Request, Finish]]:
        """Requests that were cancelled or whose time is up."""
        found = []
        for request in self.running + self.waiting:
            if request.cancelled:
                found.append((request, Finish.CANCELLED))
            elif now_s >= request.deadline():
                found.append((request, Finish.DEADLINE))
        return found

    def remove(self, request: Request) -> None:
        """Forgets a request that has ended, wherever it is, and frees its memory."""
        if request in self.running:
            self.running.remove(request)
            self._free(request)
        else:
            self.waiting.remove(request)
        tenant = request.job.tenant
        if not any(other.job.tenant == tenant for other in self.running + self.waiting):
            self._served.pop(tenant, None)

    def plan(self) -> Plan:
        """The next step: every writing request's token and drafts, then prompts with the rest.

        Drafts have to wait while prompts are computed: these make better use of the machine.
        """
        plan = Plan()
        writers = [r for r in sorted(self.running, key=_rank) if r.phase is Phase.DECODE]
        alone = len(writers) == len(self.running) and not self.waiting
        for i, request in enumerate(writers):
            if request.phase is Phase.DECODE:  # not preempted in the meantime
                drafts = len(request.drafts) if alone else 0
                if drafts:  # those that come after get their token
                    drafts = min(drafts, max(self._room(plan) - len(writers) + i, 0))
                self._share(plan, request, 1, drafts)
        self._admit(plan)
        prompts = [r for r in sorted(self.running, key=_rank) if r.phase is Phase.PREFILL]
        self._prefill(plan, prompts)
        return plan

    def account(self, plan: Plan) -> None:
        """Books what a step computed on its tenants."""
        for share in plan.shares:
            self._served[share.request.job.tenant] += share.tokens

    # -- one step ------------------------------------------------------------------------------

    def _room(self, plan: Plan) -> int:
        return self.limits.step_tokens - plan.tokens

    def _prefill(self, plan: Plan, prompts: list[Request]) -> None:
        """Spends the rest of the budget on prompts in equal parts; a short one leaves its rest."""
        for i, request in enumerate(prompts):
            if request.phase is Phase.PREFILL and (room := self._room(plan)) > 0:
                part = max(room // (len(prompts) - i), min(room, BLOCK_TOKENS))
                self._share(plan, request, min(request.wanted, part), 0)

    def _admit(self, plan: Plan) -> None:
        """Starts waiting requests while there is budget and memory for their prompts."""
        while self.waiting and self._room(plan) > 0:
            request = min(self.waiting, key=self._turn)
            if request in plan.preempted or not self._make_place(plan, request):
                return  # whose turn it is waits for memory; nobody overtakes
            self.waiting.remove(request)
            self.running.append(request)
            request.computed, request.blocks = self.memory.attach(request)
            if request.first_token_s is None:
                request.cached_tokens = request.computed
            request.phase = Phase.PREFILL
            plan.admitted.append(request)
            self._hold(request, len(request.ids))  # all of its prompt: who has started can go on

    def _share(self, plan: Plan, request: Request, tokens: int, drafts: int) -> None:
        """Gives the request its part, if memory can be found, at the least important one's cost."""
        if drafts and self._lacks(request, request.computed + tokens + drafts):
            drafts = 0  # a guess is worth nobody's memory
        length = request.computed + tokens + drafts
        while self._lacks(request, length):
            victim = max(self.running, key=_rank)
            self._preempt(plan, victim)
            if victim is request:
                return
        self._hold(request, length)
        plan.shares.append(Share(request, tokens, drafts))

    def _lacks(self, request: Request, length: int) -> bool:
        """Whether there is too little memory for `length` tokens of it."""
        needed = blocks_for(length) - request.blocks
        return needed > 0 and needed > self.memory.available()

    def _hold(self, request: Request, length: int) -> None:
        """Reserves the blocks that `length` tokens take."""
        needed = blocks_for(length) - request.blocks
        if needed > 0:
            self.memory.reserve(request, needed)
            request.blocks += needed

    def _make_place(self, plan: Plan, request: Request) -> bool:
        """Whether the request can start now; less important ones give way to it."""
        needed = blocks_for(len(request.ids))
        lesser = [r for r in self.running if r.job.priority < request.job.priority]
        if self.memory.available() + sum(r.blocks for r in lesser) < needed:
            return False
        while self.memory.available() < needed or len(self.running) >= self.limits.running:
            if not lesser:
                return False
            lesser.sort(key=_rank)
            self._preempt(plan, lesser.pop())
        return True

    def _preempt(self, plan: Plan, request: Request) -> None:
        """Back to waiting; its tokens are computed again, or found in the cache, on return."""
        plan.shares = [share for share in plan.shares if share.request is not request]
        self.running.remove(request)
        self._free(request)
        request.phase = Phase.WAITING
        request.preemptions += 1
        self.waiting.append(request)
        plan.preempted.append(request)
        if request in plan.admitted:
            plan.admitted.remove(request)

    def _free(self, request: Request) -> None:
        self.memory.release(request)
        request.computed = request.blocks = 0
        request.drafts = []

    # -- whose turn ----------------------------------------------------------------------------

    def _enter(self, tenant: str) -> None:
        """A tenant that comes (back) starts level with the one that had least: no credit."""
        if tenant not in self._served:
            self._served[tenant] = min(self._served.values(), default=0)

    def _turn(self, request: Request) -> tuple[int, int, int]:
        return -request.job.priority, self._served[request.job.tenant], request.id


def _rank(request: Request) -> tuple[int, int]:
    """Who is served first and preempted last: the highest priority, then the earliest."""
    return -request.job.priority, request.id
