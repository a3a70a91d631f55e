"""What the engine has done and is doing, in counts, tokens, bytes and seconds (no torch)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dougong.engine.request import Phase, Reply, Request
from dougong.engine.scheduler import Plan
from dougong.engine.trace import Trace


class Step(Protocol):
    """What is read of a result."""

    accepted: int
    tokens: list[int]

    @property
    def drafted(self) -> int:
        """Drafts that were verified."""


@dataclass
class Metrics:
    """Totals since the start, and the recent steps that rates are taken from.

    `stage_s`: seconds spent planning, running the model (drawing included) and booking results.
    """

    accepted: int = 0
    replies: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    written_tokens: int = 0
    drafted_tokens: int = 0
    accepted_drafts: int = 0
    preemptions: int = 0
    stage_s: dict[str, float] = field(
        default_factory=lambda: {"plan": 0.0, "model": 0.0, "book": 0.0}
    )
    trace: Trace | None = None
    _recent: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=256))

    def step(
        self,
        plan: Plan,
        results: Sequence[Step],
        start_s: float,
        planned_s: float,
        ran_s: float,
        booked_s: float,
    ) -> None:
        """Books one step; the times are moments on the engine's clock."""
        written = sum(len(result.tokens) for result in results)
        self.steps += 1
        self.computed_tokens += plan.tokens
        self.written_tokens += written
        self.preemptions += len(plan.preempted)
        self.drafted_tokens += sum(result.drafted for result in results)
        self.accepted_drafts += sum(result.accepted for result in results)
        moments = (start_s, planned_s, ran_s, booked_s)
        for stage, low, high in zip(self.stage_s, moments, moments[1:], strict=False):
            self.stage_s[stage] += high - low
            if self.trace is not None:
                size = {"requests": len(plan.shares), "tokens": plan.tokens, "written": written}
                self.trace.span(stage, low, high, size)
        if self.trace is not None:
            self._trace_phases(self.trace, plan, start_s, booked_s)
        self._recent.append((booked_s, plan.tokens, written))

    def entered(self, request: Request) -> None:
        """Books a request that has been accepted."""
        self.accepted += 1
        if self.trace is not None:
            self.trace.phase(request.id, str(Phase.WAITING), request.arrival_s)

    def ended(self, reply: Reply, now_s: float) -> None:
        """Books a reply."""
        if self.trace is not None:
            self.trace.phase(reply.request_id, None, now_s)
        self.replies[str(reply.finish)] += 1
        self.prompt_tokens += reply.prompt_tokens
        self.cached_tokens += reply.cached_tokens

    def rates(self) -> tuple[float, float]:
        """(computed, written) tokens a second over the recent steps."""
        if len(self._recent) < 2:
            return 0.0, 0.0
        seconds = self._recent[-1][0] - self._recent[0][0]
        later = list(self._recent)[1:]
        if seconds <= 0:
            return 0.0, 0.0
        return sum(c for _, c, _ in later) / seconds, sum(w for _, _, w in later) / seconds

    def as_dict(self) -> dict[str, Any]:
        """Totals and rates, to be shown or served."""
        computed, written = self.rates()
        return {
            "accepted": self.accepted, "replies": dict(self.replies), "steps": self.steps,
            "preemptions": self.preemptions,
            "tokens": {
                "prompt": self.prompt_tokens, "cached": self.cached_tokens,
                "computed": self.computed_tokens, "written": self.written_tokens,
                "drafted": self.drafted_tokens, "accepted": self.accepted_drafts,
            },
            "tokens_per_s": {"computed": computed, "written": written},
            "stage_s": dict(self.stage_s),
        }  # fmt: skip

    @staticmethod
    def _trace_phases(trace: Trace, plan: Plan, start_s: float, booked_s: float) -> None:
        """What changed for the requests of a step."""
        for request in plan.preempted:
            trace.phase(request.id, str(Phase.WAITING), start_s)
        for request in plan.admitted:
            trace.phase(request.id, str(Phase.PREFILL), start_s)
        for share in plan.shares:
            if share.request.phase is Phase.DECODE:
                trace.phase(share.request.id, str(Phase.DECODE), booked_s)
        sizes = {"requests": len(plan.shares), "tokens": plan.tokens}
        trace.counts("step", start_s, sizes)
