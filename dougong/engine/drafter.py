"""Makes drafts for every request that writes, as many as pay, and learns from what came of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dougong.engine.drafts import MARGIN, Odds, PromptLookup, StepCosts, worthwhile
from dougong.engine.mtp_drafts import MTPDrafts
from dougong.engine.request import Phase, Request
from dougong.engine.runner import Result
from dougong.engine.settings import DraftSettings
from dougong.model.transformer import Transformer


@dataclass
class _Writer:
    """What is known of one writing request: its lookup, and how good its guesses were."""

    lookup: PromptLookup = field(default_factory=PromptLookup)
    guess: list[int] = field(default_factory=list)  # what the lookup proposed, verified or not
    found: Odds = field(default_factory=Odds)  # of the lookup's guesses
    foretold: Odds = field(default_factory=Odds)  # of the MTP block's
    by_mtp: bool = False  # who made the drafts that wait to be verified


class Drafter:
    """Fills `Request.drafts` between steps."""

    def __init__(
        self,
        model: Transformer,
        settings: DraftSettings,
        num_ids: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings, self.clock = settings, clock
        self.mtp = MTPDrafts(model, num_ids) if settings.mtp else None
        self.steps, self.foretelling = StepCosts(), StepCosts()  # seconds of both, by tokens
        self._writers: dict[int, _Writer] = {}
        self._foretold = Odds()  # the MTP block's, over all requests

    @property
    def on(self) -> bool:
        """Whether anything is guessed at all."""
        return bool(self.settings.lookup or self.settings.mtp)

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._writers.pop(request.id, None)

    def learn(self, results: Sequence[Result], seconds: float) -> None:
        """Books a step: what it took, and which guesses were right."""
        if all(r.work.request.phase is Phase.DECODE and r.work.draws for r in results):
            self.steps.note(sum(len(r.work.ids) for r in results), seconds)
        for result in results:
            writer = self._writers.get(result.work.request.id)
            if writer is None or not result.tokens:
                continue
            if writer.by_mtp and result.work.drafts:
                wrong = int(result.accepted < result.work.drafts)
                writer.foretold.note(result.accepted, wrong)
                self._foretold.note(result.accepted, wrong)
            if writer.guess:  # its truth is known even if nobody verified it
                pairs = list(zip(writer.guess, result.tokens, strict=False))
                right = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
                writer.found.note(right, int(right < len(pairs)))

    def prepare(self, results: Sequence[Result]) -> None:
        """Makes the drafts of the next step for requests that have just drawn a token."""
        writing = [r for r in results if r.work.request.phase is Phase.DECODE and r.tokens]
        for result in writing:
            self._look_up(result.work.request)
        bare = [result for result in writing if not result.work.request.drafts]
        if self.settings.always:
            self._foretell(bare, self.settings.mtp)
        elif known := self.steps.known():
            if self.mtp is not None or len(bare) < len(writing):
                self._choose(writing, bare, known)
        else:  # first see what a step costs
            for result in writing:
                result.work.request.drafts = []

    # -- inside --------------------------------------------------------------------------------

    def _look_up(self, request: Request) -> None:
        writer = self._writers.setdefault(request.id, _Writer())
        writer.guess, writer.by_mtp = [], False
        if most := min(self.settings.lookup, _left(request)):
            writer.guess = writer.lookup.propose(request.ids, most)
        request.drafts = list(writer.guess)

    def _choose(
        self, writing: Sequence[Result], bare: Sequence[Result], known: dict[int, float]
    ) -> None:
        """Leaves as many of the drafts found as pay; asks the MTP block where that pays more."""
        requests = [result.work.request for result in writing]
        found = [_all_right(self._writers[r.id].found.chance(), len(r.drafts)) for r in requests]
        counts, rate = worthwhile(found, len(requests), known)
        depth = self._depth(requests, found, known, rate) if bare else 0
        if depth:
            self._foretell(bare, depth)
            counts, _ = worthwhile(self._with_mtp(requests, found, depth), len(requests), known)
        else:
            for odds in (self._foretold, *(self._writers[r.id].foretold for r in requests)):
                odds.forget()
        for request, count in zip(requests, counts, strict=True):
            del request.drafts[count:]

    def _depth(
        self,
        requests: Sequence[Request],
        found: Sequence[list[float]],
        known: dict[int, float],
        rate: float,
    ) -> int:
        """How far ahead the MTP block should look; 0 where that would not pay."""
        best, costs = 0, self.foretelling.known()
        bare = sum(not request.drafts for request in requests)
        for depth in range(1, self.settings.mtp + 1):
            each_s = StepCosts.of(bare, costs) if costs else 0.0
            chances = self._with_mtp(requests, found, depth)
            _, promised = worthwhile(chances, len(requests), known, depth * each_s)
            if promised > rate * (1.0 if best else MARGIN):
                best, rate = depth, promised
        return best

    def _with_mtp(
        self, requests: Sequence[Request], found: Sequence[list[float]], depth: int
    ) -> list[list[float]]:
        """The chances of the drafts that would be there if the block looked `depth` ahead."""
        chances = []
        for request, row in zip(requests, found, strict=True):
            writer = self._writers[request.id]
            one = writer.foretold.chance(self._foretold.chance(prior=0.8))
            chances.append(row or _all_right(one, min(depth, _left(request))))
        return chances

    def _foretell(self, results: Sequence[Result], depth: int) -> None:
        """Has the MTP block guess for these requests."""
        if not results or not depth or self.mtp is None:
            return
        start_s = self.clock()
        guesses = self.mtp.guess(results, depth)
        self.foretelling.note(len(results), (self.clock() - start_s) / depth)
        for result, guess in zip(results, guesses, strict=True):
            request = result.work.request
            request.drafts = guess[: _left(request)]
            self._writers[request.id].by_mtp = True


def _left(request: Request) -> int:
    """Tokens that may come behind the next one: more drafts could not be used."""
    return max(request.job.max_tokens - len(request.ids) + request.prompt_tokens - 1, 0)


def _all_right(chance: float, count: int) -> list[float]:
    """Of each of `count` drafts: that it and those before it are right."""
    return [chance**n for n in range(1, count + 1)]
