"""Guesses at a request's next tokens, and when guessing pays (no torch).

A draft is only ever accepted where it equals the token that would have been drawn, so nothing here
can change an answer: a bad guess costs time, and this file's second half sees to it that it is
little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST_MATCH, SHORTEST_MATCH = 4, 2  # tokens that must recur before what followed is proposed


class PromptLookup:
    """Proposes what followed the last time the same few tokens occurred (Saxena 2023)."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # tokens -> where they last ended
        self._before: dict[tuple[int, ...], int] = {}  # the occurrence before that one
        self._seen = 0

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens to come after `ids`, which only ever grows between calls."""
        for end in range(self._seen + 1, len(ids) + 1):
            for size in range(SHORTEST_MATCH, min(LONGEST_MATCH, end) + 1):
                key = tuple(ids[end - size : end])
                if key in self._ends:
                    self._before[key] = self._ends[key]
                self._ends[key] = end
        self._seen = len(ids)
        for size in range(min(LONGEST_MATCH, len(ids)), SHORTEST_MATCH - 1, -1):
            start = self._before.get(tuple(ids[len(ids) - size :]))
            if start is not None:
                # a short cycle is proposed on and on
                known = list(ids[start:])
                return [known[i % len(known)] for i in range(most)]
        return []


@dataclass
class Pace:
    """Whether drafting pays, from what steps cost and how many drafts were right.

    Times are per step, smoothed. Drafting goes on while the tokens that it brings are cheaper than
    plain ones; when it is off, it is tried again after a while, ever more rarely while it fails.
    """

    margin: float = 0.97  # the share of plain speed that drafting may fall to before it is off
    plain_s: float | None = None
    drafted_s: float | None = None
    tokens_per_step: float = 1.0
    rest: int = 0  # steps until the next trial
    patience: int = 4
    trial: int = field(default=0)

    def wants_drafts(self) -> bool:
        """Whether the next step should carry drafts."""
        if self.plain_s is None:
            return False  # first see what a plain step costs
        if self.rest > 0:
            self.rest -= 1
            return False
        return True

    def plain_step(self, seconds: float) -> None:
        """Notes a step of this request without drafts."""
        self.plain_s = _smooth(self.plain_s, seconds)

    def drafted_step(self, seconds: float, tokens: int) -> None:
        """Notes a step with drafts, which brought `tokens` tokens (1: all drafts were wrong)."""
        self.drafted_s = _smooth(self.drafted_s, seconds)
        self.tokens_per_step = _smooth(self.tokens_per_step, float(tokens))
        self.trial += 1
        assert self.plain_s is not None
        if self.trial < self.patience:
            return
        if self.drafted_s > self.plain_s * self.tokens_per_step * self.margin:
            self.rest = min(64 * 2 ** (self.trial // self.patience), 2048)
        else:
            self.trial = self.patience


def _smooth(old: float | None, new: float, weight: float = 0.25) -> float:
    return new if old is None else old + weight * (new - old)
